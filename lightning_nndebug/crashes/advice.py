"""What a message says of its own cause, and what to do: one table for each rule that needs one."""

from __future__ import annotations

import re
from collections.abc import Mapping

_Entry = tuple[str, str]  # a cause, and what to do

_SETUP: Mapping[str, _Entry] = {
    # configure_optimizers
    r"Unknown configuration for model optimizers|KeyError: 'optimizer'": (
        "configure_optimizers returned something else than optimizers",
        'return the optimizer, or {"optimizer": ..., "lr_scheduler": {"scheduler": ...}}',
    ),
    r"must include a monitor when": (
        "ReduceLROnPlateau needs the name of the metric that it waits for",
        'return {"optimizer": ..., "lr_scheduler": {"scheduler": ..., "monitor": "val_loss"}}',
    ),
    r'lr scheduler dict must have the key "scheduler"': (
        "the dictionary of the scheduler has another key",
        '"lr_scheduler": {"scheduler": scheduler, "interval": "step"}',
    ),
    r'"interval" key in lr scheduler dict': (
        "an interval is a step or an epoch",
        '"interval": "step" or "interval": "epoch"',
    ),
    r"wasn't returned from `configure_optimizers`": (
        "the scheduler was made for another optimizer than the one returned",
        "make the optimizer once, and give that one to the scheduler",
    ),
    r"The provided lr scheduler|'(function|\w*(LR|[Ss]cheduler)\w*)' object has no"
    r" attribute 'optimizer'|is not an Optimizer": (
        "a scheduler takes an optimizer, and follows torch's interface",
        "torch.optim.lr_scheduler.StepLR(optimizer, ...), or override lr_scheduler_step",
    ),
    r"Training with multiple optimizers": (
        "several optimizers, or an optimizer_idx, with automatic optimization",
        "self.automatic_optimization = False, and step each of self.optimizers() yourself",
    ),
    r"please disable automatic optimization": (
        "manual_backward in a step that Lightning optimizes",
        "self.automatic_optimization = False, or return the loss alone",
    ),
    r"is not supported for manual optimization": (
        "the Trainer cannot do this where the step optimizes by itself",
        "take the option from the Trainer, and do it in training_step: self.clip_gradients",
    ),
    r"In manual optimization, `training_step` must": (
        "a step that optimizes by itself returns a tensor, a dictionary or nothing",
        "return nothing, or the loss",
    ),
    r"The closure hasn't been executed": (
        "an optimizer_step of your own does not run its closure",
        "optimizer.step(closure=optimizer_closure)",
    ),
    r"'AttributeDict' object has no attribute": (
        "this hyperparameter was not saved",
        "call self.save_hyperparameters() in __init__, with arguments of this name",
    ),
    # optimizers and schedulers
    r"optimizer got an empty parameter list": (
        "no parameter is there when the optimizer is made: layers in a plain list, or made later",
        "keep layers in nn.ModuleList, and make them in __init__",
    ),
    r"optimizer can only optimize Tensors|params argument given to the optimizer"
    r"|KeyError: 'params'": (
        "an optimizer takes parameters, or groups of them",
        'self.parameters(), or [{"params": self.net.parameters(), "lr": 1e-3}]',
    ),
    r"can't optimize a non-leaf Tensor": (
        "a tensor that was computed from others is no parameter",
        "make it nn.Parameter(tensor.detach())",
    ),
    r"some parameters appear in more than one parameter group": (
        "one parameter stands in two groups",
        "leave out of the second group what the first one has",
    ),
    r"Invalid (learning rate|beta parameter|weight_decay|momentum|epsilon|alpha|rho)": (
        "an option of the optimizer is out of its range",
        "lr and weight_decay are 0 or more, betas below 1",
    ),
    r"Nesterov momentum requires": (
        "nesterov=True without momentum",
        "momentum=0.9, dampening=0",
    ),
    r"The specified number of total steps is|Tried to step \d+ times": (
        "the scheduler steps more often than it was made for",
        "total_steps=self.trainer.estimated_stepping_batches",
    ),
    r"You must define either total_steps|positive integer (total_steps|epochs|steps_per_epoch)": (
        "OneCycleLR needs to know the number of steps",
        "total_steps=self.trainer.estimated_stepping_batches",
    ),
    r"ReduceLROnPlateau\.step\(\) missing": (
        "ReduceLROnPlateau steps by a metric",
        "scheduler.step(val_loss); in Lightning, name it as the monitor",
    ),
    r"mode \w+ is unknown|Expected \d+ (lr_lambdas|min_lrs|values? for)|base_momentum": (
        "an option of the scheduler does not fit it or its optimizer",
        "give one value, or as many as there are parameter groups",
    ),
    # loaders and datasets
    r"num_samples should be a positive integer": (
        "the dataset is empty: a path, a pattern or a split has found nothing",
        "look at len(dataset) before the loader is made",
    ),
    r"mutually exclusive with": (
        "two options of the DataLoader say in what order or batches samples come",
        "leave out shuffle where there is a sampler; all of them where there is a batch_sampler",
    ),
    r"IterableDataset: expected unspecified": (
        "a dataset that is a stream has an order of its own",
        "leave out shuffle and sampler, and shuffle in its __iter__",
    ),
    r"batch_size should be a positive integer|num_workers option should be"
    r"|needs? num_workers > 0|could only be specified in multiprocessing|timeout option": (
        "an option of the DataLoader is out of its range, or needs workers",
        "batch_size is a whole number of 1 or more; other options need num_workers=1 or more",
    ),
    r"Subclasses of Dataset should implement": (
        "the dataset lacks __len__ or __getitem__",
        "define both, or make it an IterableDataset without shuffle",
    ),
    r"Size mismatch between tensors": (
        "the tensors of a TensorDataset do not hold equally many samples",
        "compare len of each of them",
    ),
    r"Sum of input lengths does not equal": (
        "the parts of random_split do not add up to the dataset",
        "give fractions: random_split(dataset, [0.8, 0.2])",
    ),
    r"weights should be a 1d sequence": (
        "a sampler takes one weight for each sample",
        "weights.flatten(), as long as the dataset",
    ),
    r"An invalid dataloader was|`\w+_dataloader` must be implemented"
    r"|needs to subclass `torch.utils.data.DataLoader`": (
        "there is no loader, or it is none: a hook without return, a batch, a number",
        "give trainer.fit a DataLoader, or return one from train_dataloader",
    ),
    r"`val_check_interval` .* must be less than"
    r"|`Trainer\((limit_|val_check)|You requested to check": (
        "the Trainer is to look at more or fewer batches than there are",
        "a smaller val_check_interval, or check_val_every_n_epoch=None",
    ),
    # modules
    r'missing the required "forward" function': (
        "a container is called as if it were a layer, or forward is missing or misspelt",
        "define forward; go through a ModuleList with a loop",
    ),
    r"before Module\.__init__\(\) call|no attribute '_(backward_hooks|forward_hooks|modules"
    r"|parameters|buffers)'": (
        "the module's own __init__ begins without super().__init__()",
        "call super().__init__() first",
    ),
    r"is not a Module subclass": (
        "a function, or a list of layers, where a layer should be",
        "nn.ReLU() in place of F.relu; nn.Sequential(*layers) in place of a list",
    ),
    r"embed_dim must be divisible|must be divisible by (num_)?groups|num_channels must be divis"
    r"|divisible by num_groups": (
        "the heads or groups do not divide the width",
        "choose a width that is a multiple of them",
    ),
    # hooks
    r"No `\w+\(\)` method defined|requires `forward` method": (
        "a hook that the Trainer needs is not there, is misspelt or is defined in another place",
        "define it in the LightningModule, by this name",
    ),
    r"has been removed in v2": (
        "the hook is one of Lightning 1",
        "gather outputs in self.outputs, and use them in on_validation_epoch_end(self)",
    ),
    r"You passed a `.*` object .* to a `": (
        "pytorch_lightning and lightning.pytorch are mixed",
        "import all from one of them",
    ),
    r"[\w.>]*\b(forward|training_step|validation_step|test_step|predict_step|on_\w+|setup"
    r"|configure_optimizers|optimizer_step|lr_scheduler_step|\w+_dataloader|collate_fn)\(\) "
    r"(missing|takes|got (an unexpected|multiple)|got some)": (
        "it is called with other arguments than it is defined with",
        "compare its definition with the call; hooks have the arguments that Lightning documents",
    ),
    r"TypeError: \w+\.__init__\(\) (missing|takes|got (an unexpected|multiple))": (
        "it is made with other arguments than it takes",
        "see its documentation for the names of the arguments",
    ),
}

_LOGGED: Mapping[str, _Entry] = {
    r"values cannot be logged|nested dictionaries cannot be logged": (
        "a logged value is one number, a tensor of one, or a metric",
        'self.log("name", value), with text and lists left out',
    ),
    r"the tensor must have a single element": (
        "the tensor holds more than one number",
        "log its mean: value.mean()",
    ),
    r"twice in `\w+` with different arguments": (
        "one name is logged twice in a step, with other options",
        "give each its own name, or log it once",
    ),
    r"You can't `self\.log\(\)` inside|Logging inside `|You are trying to `self\.log": (
        "this hook runs outside of what Lightning gathers logs from",
        "log in the steps or at the ends of epochs, or use self.logger.experiment",
    ),
    r"You can't `self\.log\(on_": (
        "at the end of an epoch there are no steps",
        "leave out on_step and on_epoch",
    ),
    r"`self\.log\(on_step=False, on_epoch=False\)`": (
        "the value would be logged nowhere",
        "on_step=True or on_epoch=True",
    ),
    r"Only `self\.log\(\.\.\., reduce_fx": (
        "Lightning reduces by these four alone",
        "log a torchmetrics.Metric",
    ),
    r"should not contain information about `dataloader_idx`": (
        "Lightning adds the number of the loader itself",
        "leave it out of the name, or add_dataloader_idx=False",
    ),
    r"attribute for the `torchmetrics\.Metric` logged|\.compute\(\)` return of the metric": (
        "the metric is no attribute of the module, or computes no single number",
        "make it in __init__: self.accuracy = ...; for several numbers use log_dict",
    ),
    r"could not infer the batch_size|`self\.log\(\.\.\., batch_size": (
        "Lightning cannot tell how many samples the batch holds",
        "self.log(..., batch_size=len(x))",
    ),
    r"\.log(_dict)?\(\) (missing|takes|got)": (
        "self.log takes a name, a value and options",
        'self.log("name", value, on_epoch=True)',
    ),
}

_SHAPES: Mapping[str, _Entry] = {
    r"non-empty (list|TensorList)|numel\(\) == 0": (
        "nothing has been gathered: the list or the tensor is empty",
        "append in the step, and clear only after it was used",
    ),
    r"embedding dimension of|embed_dim": (
        "the attention was made for another width",
        "set embed_dim to the last dimension of the input",
    ),
    r"attn_mask|key_padded_mask|key_padding_mask": (
        "a mask is (queries, keys), and one of padding (samples, keys)",
        "batch_first=True where samples come first",
    ),
    r"must be sorted in decreasing order": (
        "the lengths are not sorted",
        "enforce_sorted=False",
    ),
    r"Length of all samples has to be greater than 0": (
        "a sequence is empty",
        "leave empty sequences out, or lengths.clamp(min=1)",
    ),
    r"[Ee]xpected hidden|hx|hidden0|hidden\[0\]": (
        "a state is (layers, samples, hidden_size), with batch_first too",
        "make it from the batch: x.new_zeros(layers, len(x), hidden_size)",
    ),
    r"([Ee]xpected|only|supports|Expecting).* \dD.* (input|tensor|got)|expected \dD": (
        "the input has more or fewer dimensions than this takes",
        "x.unsqueeze(1) for a lacking axis, x.flatten(1), or the layer of another kind: 1d, 2d",
    ),
    r"input_lengths|target_lengths|ctc_loss": (
        "lengths count steps of the output, and of each target",
        "the output of ctc_loss is (steps, samples, classes), and no length exceeds its steps",
    ),
    r"Output size is too small|Kernel size can't be greater|padded input size": (
        "the image has become smaller than the window",
        "fewer pooling layers, padding, or larger images",
    ),
    r"not compatible with input tensor's size and stride|at least one dimension spans": (
        "the tensor does not lie in one piece, after transpose or permute",
        "reshape in place of view",
    ),
    r"converted to (Scalar|Python scalars)|only one element tensors|is ambiguous": (
        "a tensor of several numbers where one is needed",
        "make it one: .mean(), .any(); a loss is made before it is called: nn.MSELoss()(x, y)",
    ),
}

_RANGES: Mapping[str, _Entry] = {
    r"to satisfy the constraint .*nan": (
        "the net has put out NaN",
        "see where it began: gradients, the learning rate, or a division",
    ),
    r"to satisfy the constraint|negative entr": (
        "the net puts out values that the distribution has no place for",
        "softplus or exp for scales and variances; logits= in place of probs=",
    ),
    r"probability tensor|multinomial": (
        "these are no probabilities: NaN, negative, or all of them 0",
        "softmax before multinomial",
    ),
}

_GRADIENTS: Mapping[str, _Entry] = {
    r"Inference tensors cannot be saved": (
        "a tensor was made in inference_mode, by validation or a frozen net",
        "torch.no_grad() in its place, or tensor.clone()",
    ),
    r"Can't call numpy\(\) on Tensor": (
        "a tensor with a gradient goes to numpy",
        "tensor.detach().cpu().numpy() for numbers to look at; torch functions for the loss",
    ),
    r"appears? to not have been used in the graph": (
        "the gradient is asked for with respect to something that the loss does not use",
        "compute the loss from that very tensor, or allow_unused=True",
    ),
    r"deepcopy protocol": (
        "a tensor with a graph is kept as an attribute, and copied",
        "keep tensor.detach()",
    ),
}

_LOSS: Mapping[str, _Entry] = {
    r"'loss' key needs to be present": (
        "training_step returned a dictionary without a loss",
        'return {"loss": loss, ...}',
    ),
    r"`training_step` must return a Tensor|has no attribute 'detach'": (
        "training_step returned something else: a number, a tuple, text",
        "return the loss itself, without .item()",
    ),
}

_FORMATS: Mapping[str, _Entry] = {
    r"numpy\.(object_|str_)": (
        "the array holds text, None or rows of different lengths",
        "turn it into numbers first: np.asarray(rows, dtype=np.float32)",
    ),
    r"one_hot is only applicable": ("class numbers are floats", "y.long()"),
    r"used as indices must be|BoolTensor|two bool tensors|on a bool tensor|Boolean inputs"
    r"|Boolean-type|only bool and floating": (
        "a mask is bool, an index an integer, and no number a mask",
        "mask.bool() or x > 0 for masks, index.long(), ~mask for its opposite",
    ),
}

_DEVICES: Mapping[str, _Entry] = {
    r"not compiled with CUDA|gpu backend|Found no NVIDIA|No CUDA GPUs|No supported gpu": (
        "this machine, or this build of torch, has no GPU",
        'Trainer(accelerator="auto"), and no .cuda() in the module',
    ),
}

_STATES: Mapping[str, _Entry] = {
    r"Weights only load failed|Unsupported (global|class)": (
        "the checkpoint holds objects of classes that torch does not load unasked",
        "weights_only=False, if you trust the file",
    ),
    r"PytorchStreamReader failed|unexpected EOF|UnpicklingError|invalid load key": (
        "the file is cut off, or no checkpoint",
        "write it anew; compare its size with that of the original",
    ),
    r"Checkpoint file not found": (
        "there is no such file",
        "print the path; checkpoint_callback.best_model_path has the last one",
    ),
    r"Expected state_dict to be dict-like": (
        "this is no state_dict",
        'torch.load(path)["state_dict"] of a checkpoint of Lightning',
    ),
}

ADVICE: Mapping[str, Mapping[str, _Entry]] = {
    "wrong_setup": _SETUP,
    "log_refused": _LOGGED,
    "shape_mismatch": _SHAPES,
    "index_out_of_range": _RANGES,
    "no_gradient": _GRADIENTS,
    "loss_not_scalar": _LOSS,
    "dtype_clash": _FORMATS,
    "device_clash": _DEVICES,
    "state_dict_mismatch": _STATES,
}


def anyof(name: str) -> str:
    """Returns one pattern for all messages that the table of a rule knows."""
    return "|".join(ADVICE[name])


def advice(name: str, text: str) -> _Entry | None:
    """Returns cause and remedy of the first message in the table of a rule that fits."""
    table = ADVICE.get(name, {})
    return next((one for key, one in table.items() if re.search(key, text, re.DOTALL)), None)


def last_words(text: str) -> str:
    """Returns what was said in the end: the message of a worker begins with its traceback."""
    if not text.startswith("Caught "):
        return text
    *_, last = re.split(r"^\s+.*\n", text, flags=re.MULTILINE)
    return last.strip() or text
