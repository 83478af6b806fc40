"""Crashes: the exception that ended the run, explained."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..core.detector import Detector, rule
from ..core.findings import Evidence, Severity
from ..core.measurements.crash import Crash
from .advice import advice
from .reading import (
    Reading,
    arguments,
    devices,
    first_line,
    indices,
    kinds,
    logged,
    memory,
    overwritten,
    samples,
    shapes,
)
from .signs import sign

_MISMATCH = re.compile(
    r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)"
)


class CrashDetector(Detector):
    """Explains the exception that ends a run: which module, which shapes, which values, which line.

    The exception itself is neither hidden nor changed; the explanation is printed before it. An
    interruption by the user, or a halt that somebody asked for, is no crash.
    """

    @rule("ERR101", severity=Severity.ERROR)
    def shape_mismatch(self, crash: Crash) -> Iterator[Evidence]:
        """A module or an operation got tensors whose shapes do not fit.

        Why it matters:
            The run has ended here; the line and the module named are where the shapes met, and the
            mistake is often one step earlier.

        Likely causes:
            - a layer was made for another number of features or channels
            - the input was not flattened, or its axes are in another order
            - predictions and targets differ by a dimension of 1

        How to fix:
            - compare the two shapes named here, and change the one that is wrong
            - print the shapes with torchinfo.summary, or step through with a debugger
            - use LazyLinear or LazyConv2d where the number of features follows from the input

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/notes/broadcasting.html
        """
        yield from _explained("shape_mismatch", crash, shapes)

    @rule("ERR102", severity=Severity.ERROR, caused_by=["CLS105"])
    def index_out_of_range(self, crash: Crash) -> Iterator[Evidence]:
        """An index or a class number is larger than what it points into, or negative.

        Why it matters:
            On a GPU this is a device-side assertion, which names no line and leaves the process
            unusable.

        Likely causes:
            - class numbers begin at 1
            - the vocabulary has grown since the embedding was made
            - a mark for missing labels, such as -1 or 255, went into the loss

        How to fix:
            - number classes and tokens from 0 up to one less than the size named here
            - enlarge the embedding or the last layer
            - give marks the ignore_index of the loss, or leave them out

        When it is fine:
            Never: the run has ended.

        References:
            - CUDA_LAUNCH_BLOCKING=1 makes a GPU name the line
        """
        yield from _explained("index_out_of_range", crash, indices)

    @rule("ERR103", severity=Severity.ERROR)
    def dtype_clash(self, crash: Crash) -> Iterator[Evidence]:
        """Tensors of different number formats met.

        Why it matters:
            torch converts in additions, but not in layers, matrix products and losses.

        Likely causes:
            - float64 from numpy or pandas in a float32 net
            - integers where floats are expected, or the reverse
            - a tensor made in the step that does not follow autocast

        How to fix:
            - convert at the source, in the dataset: np.float32 for inputs, np.int64 for class
              numbers
            - in the step: x.float(), y.long(), or new.to(x.dtype)

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/tensor_attributes.html
        """
        yield from _explained("dtype_clash", crash, kinds)

    @rule("ERR104", severity=Severity.ERROR)
    def device_clash(self, crash: Crash) -> Iterator[Evidence]:
        """Tensors on different devices met.

        Why it matters:
            Lightning moves parameters, buffers and the batch; nothing else.

        Likely causes:
            - a tensor made in the step, or kept as a plain attribute, stays where it was made
            - a list of modules that is no ModuleList
            - a batch of a class of your own that Lightning cannot move

        How to fix:
            - make it with device=self.device, or x.new_zeros(...)
            - self.register_buffer(name, tensor) for constants
            - transfer_batch_to_device, or a method to(device) for batches of your own

        When it is fine:
            Never: the run has ended.

        References:
            - https://lightning.ai/docs/pytorch/stable/accelerators/accelerator_prepare.html
        """
        yield from _explained("device_clash", crash, devices)

    @rule("ERR105", severity=Severity.ERROR)
    def out_of_memory(self, crash: Crash) -> Iterator[Evidence]:
        """There was not enough memory for this step.

        Why it matters:
            What does not depend on the batch (parameters, gradients, optimizer) can be told from
            what does.

        Likely causes:
            - the batch is too large, or a sample in it is
            - a tensor that grows with the square of something
            - losses or outputs that are kept with their graph

        How to fix:
            - a smaller batch with accumulate_grad_batches
            - precision="bf16-mixed", and activation checkpointing
            - keep loss.detach(), not loss

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/notes/faq.html
        """
        yield from _explained("out_of_memory", crash, memory)

    @rule("ERR106", severity=Severity.ERROR, caused_by=["LOS107", "MOD104"])
    def no_gradient(self, crash: Crash) -> Iterator[Evidence]:
        """The loss does not lead back to any parameter.

        Why it matters:
            Nothing can be trained by it.

        Likely causes:
            - detach(), item(), numpy() or a new torch.tensor(...) between the net and the loss
            - the forward ran under no_grad
            - all parameters are frozen
            - argmax or another step without a derivative

        How to fix:
            - compute the loss from the output of the net itself
            - remove no_grad and detach from the path to the loss
            - unfreeze what should be trained

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/notes/autograd.html
        """
        yield from _explained("no_gradient", crash, _plain)

    @rule("ERR107", severity=Severity.ERROR)
    def graph_used_twice(self, crash: Crash) -> Iterator[Evidence]:
        """The same graph went backward twice.

        Why it matters:
            Its saved values are freed the first time.

        Likely causes:
            - a hidden state or a memory is carried from one step to the next with its graph
            - two losses that share a part, with a backward each

        How to fix:
            - carry state.detach() over to the next step
            - add the losses, and go backward once
            - retain_graph=True, if it is meant

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/notes/autograd.html
        """
        yield from _explained("graph_used_twice", crash, _plain)

    @rule("ERR108", severity=Severity.ERROR)
    def modified_in_place(self, crash: Crash) -> Iterator[Evidence]:
        """A tensor that the backward pass needs was written to.

        Why it matters:
            Its gradient would be wrong, so torch refuses.

        Likely causes:
            - +=, *= or x[...] = on the output of a layer
            - ReLU(inplace=True) after an operation that needs its output
            - optimizer.step() between a forward and its backward
            - an in-place change of a parameter outside of no_grad

        How to fix:
            - write x = x + y in place of x += y
            - inplace=False
            - run the forward anew after each step of an optimizer
            - torch.autograd.set_detect_anomaly(True) names the forward line

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/notes/autograd.html
        """
        yield from _explained("modified_in_place", crash, overwritten)

    @rule("ERR109", severity=Severity.ERROR, caused_by=["STR105"])
    def unused_parameters(self, crash: Crash) -> Iterator[Evidence]:
        """In distributed training, some parameters had no part in the loss.

        Why it matters:
            The processes wait for gradients that never come.

        Likely causes:
            - a module that is built but not called, or called in some steps only
            - an output that the loss leaves out

        How to fix:
            - remove the unused module, or freeze it: requires_grad_(False)
            - strategy="ddp_find_unused_parameters_true", if it varies from step to step

        When it is fine:
            Never: the run has ended.

        References:
            - https://lightning.ai/docs/pytorch/stable/advanced/model_parallel/index.html
        """
        yield from _explained("unused_parameters", crash, _plain)

    @rule("ERR110", severity=Severity.ERROR)
    def dead_worker(self, crash: Crash) -> Iterator[Evidence]:
        """A worker of the DataLoader died.

        Why it matters:
            Its own message is lost: the operating system has ended it.

        Likely causes:
            - not enough memory for so many workers
            - a small /dev/shm, as docker gives it
            - a crash in a library that the dataset uses

        How to fix:
            - num_workers=0 shows the error itself
            - fewer workers, or a smaller prefetch_factor
            - docker run --shm-size=8g, or set_sharing_strategy("file_system")

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/data.html
        """
        yield from _explained("dead_worker", crash, _plain)

    @rule("ERR111", severity=Severity.ERROR)
    def unpicklable(self, crash: Crash) -> Iterator[Evidence]:
        """Something cannot be handed over to another process.

        Why it matters:
            Workers and ranks that are spawned get their objects as pickles.

        Likely causes:
            - a lambda or a local function in a dataset, a transform or a collate_fn
            - an open file, a database connection or a lock as an attribute

        How to fix:
            - make the function a top-level one, or functools.partial of one
            - open files and connections in the worker, at first use

        When it is fine:
            Never: the run has ended.

        References:
            - https://docs.python.org/3/library/pickle.html
        """
        yield from _explained("unpicklable", crash, _plain)

    @rule("ERR112", severity=Severity.ERROR)
    def state_dict_mismatch(self, crash: Crash) -> Iterator[Evidence]:
        """The checkpoint was written by another net than the one it is loaded into.

        Why it matters:
            Which keys differ tells which of the two is the wrong one.

        Likely causes:
            - other hyperparameters than those of the checkpoint
            - keys with a prefix: model., module., _orig_mod.
            - a head for another number of classes

        How to fix:
            - load_from_checkpoint with the hyperparameters of that run: save_hyperparameters()
              keeps them
            - strip the prefix from the keys
            - leave the head out and load with strict=False

        When it is fine:
            Never: the run has ended.

        References:
            - https://lightning.ai/docs/pytorch/stable/common/checkpointing_basic.html
        """
        yield from _explained("state_dict_mismatch", crash, _state)

    @rule("ERR113", severity=Severity.ERROR)
    def uneven_samples(self, crash: Crash) -> Iterator[Evidence]:
        """Samples of different shapes cannot become one batch.

        Why it matters:
            The default collate function stacks.

        Likely causes:
            - sequences of different lengths, images of different sizes
            - a sample without a label, or None for one that could not be read

        How to fix:
            - pad in a collate_fn: torch.nn.utils.rnn.pad_sequence
            - resize or crop to one size in the dataset
            - filter unreadable samples before, or draw another one

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/data.html
        """
        yield from _explained("uneven_samples", crash, samples)

    @rule("ERR114", severity=Severity.ERROR)
    def batch_of_one(self, crash: Crash) -> Iterator[Evidence]:
        """Batch norm got a single value per channel, and cannot normalize it.

        Why it matters:
            A variance needs two.

        Likely causes:
            - the last batch of an epoch holds one sample
            - a batch size of 1, or one sample for each process

        How to fix:
            - drop_last=True in the DataLoader for training
            - a larger batch, or group norm or layer norm

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html
        """
        yield from _explained("batch_of_one", crash, _plain)

    @rule("ERR115", severity=Severity.ERROR)
    def loss_not_scalar(self, crash: Crash) -> Iterator[Evidence]:
        """The loss is not one number.

        Why it matters:
            A gradient is that of one number.

        Likely causes:
            - reduction="none", or a weighted loss without its mean
            - a loss for each sample or task, not yet added up
            - a number, a tuple or a dictionary without "loss" was returned

        How to fix:
            - return loss.mean(), or {"loss": loss, ...}

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/autograd.html
        """
        yield from _explained("loss_not_scalar", crash, _plain)

    @rule("ERR116", severity=Severity.ERROR)
    def not_a_tensor(self, crash: Crash) -> Iterator[Evidence]:
        """Something is no tensor where one is needed, or a batch is taken apart as what it is not.

        Why it matters:
            Batches are tuples or dictionaries, and so are the outputs of some layers.

        Likely causes:
            - the whole batch was given to the net: it is (x, y)
            - the output of a recurrent layer is (output, state), that of many nets an object with
              .logits
            - None was returned: a forward without return, an optional input
            - the dataset gives more, fewer or other things than the step takes

        How to fix:
            - unpack the batch as the dataset has made it: x, y = batch, or batch["x"]
            - take the tensor out of the output

        When it is fine:
            Never: the run has ended.

        References:
            - https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html
        """
        yield from _explained("not_a_tensor", crash, arguments)

    @rule("ERR117", severity=Severity.ERROR)
    def metric_not_there(self, crash: Crash) -> Iterator[Evidence]:
        """A callback or a scheduler waits for a metric that was not logged.

        Why it matters:
            Names must be the same to the letter, and be there when they are asked for.

        Likely causes:
            - another name in self.log than in monitor
            - it is logged in validation, but asked for before the first one
            - on_epoch=False, or logged by one process alone

        How to fix:
            - use the name that self.log was called with
            - check_val_every_n_epoch and the scheduler's frequency must agree

        When it is fine:
            Never: the run has ended.

        References:
            - https://lightning.ai/docs/pytorch/stable/common/early_stopping.html
        """
        yield from _explained("metric_not_there", crash, _plain)

    @rule("ERR118", severity=Severity.ERROR)
    def wrong_setup(self, crash: Crash) -> Iterator[Evidence]:
        """Something is not set up, or not called, as torch or Lightning need it.

        Why it matters:
            Optimizers, schedulers, loaders, modules and hooks have an interface, which is checked
            when they are made or first used.

        Likely causes:
            - configure_optimizers returns something else than Lightning knows
            - an optimizer has no parameters, or a scheduler no monitor
            - a DataLoader has options that exclude each other, or an empty dataset
            - a module has no forward, or an attribute that it never set
            - a hook takes other arguments than Lightning gives

        How to fix:
            - return the optimizer, or {"optimizer": ..., "lr_scheduler": {"scheduler": ...}}
            - begin __init__ with super().__init__(), and make all layers in it
            - compare the call with the definition

        When it is fine:
            Never: the run has ended.

        References:
            - https://lightning.ai/docs/pytorch/stable/common/lightning_module.html
        """
        yield from _explained("wrong_setup", crash, _setup)

    @rule("ERR119", severity=Severity.ERROR)
    def log_refused(self, crash: Crash) -> Iterator[Evidence]:
        """self.log cannot take this value, these options, or this place.

        Why it matters:
            What is logged is reduced over batches and processes, so it must be one number under
            one name.

        Likely causes:
            - a tensor of several numbers, text, a list or None
            - one name with other options in a second call
            - a hook outside of the epoch

        How to fix:
            - log value.mean(), and each value under a name of its own
            - log in the steps, or at the ends of epochs
            - self.logger.experiment for text and pictures

        When it is fine:
            Never: the run has ended.

        References:
            - https://lightning.ai/docs/pytorch/stable/extensions/logging.html
        """
        yield from _explained("log_refused", crash, logged)


def _explained(name: str, crash: Crash, read: Callable[[Crash], Reading]) -> Iterator[Evidence]:
    if sign(crash) != name:
        return
    reading = read(crash)
    known = advice(name, f"{crash.kind}: {crash.text}")
    causes, fixes = reading.causes, reading.fixes
    if known is not None and not fixes:
        causes, fixes = (known[0],), (known[1],)
    stage = {"train": "", "sanity_check": " (in the sanity check of validation)"}.get(
        crash.stage, f" (while it was in {crash.stage})"
    )
    details = {
        "exception": f"{crash.kind}: {crash.text}",
        "line": str(crash.line) if crash.line is not None else "",
        "code": crash.line.text if crash.line is not None else "",
    }
    message = f"{reading.seen}{stage}"
    yield Evidence(crash.place, first_line(crash.text), None, message, causes, fixes,
                   details)  # fmt: skip


def _plain(crash: Crash) -> Reading:
    """Names the line, the tensors in it, and torch's own first words."""
    said = first_line(crash.text)
    if crash.line is None:
        return Reading(said)
    among = ", ".join(map(str, crash.operands))
    return Reading(f"`{crash.line.text}`{f' with {among}' if among else ''}: {said}")


def _setup(crash: Crash) -> Reading:
    """Names what a module lacks."""
    reading = _plain(crash)
    if crash.kind != "AttributeError" or crash.source != "torch.nn.modules.module":
        return reading
    if advice("wrong_setup", crash.text) is not None:
        return reading
    return Reading(
        reading.seen,
        ("the name is misspelt, __init__ does not make it, or a property of this name fails",),
        ("make it in __init__, by this name",),
    )


def _state(crash: Crash) -> Reading:
    """Tells which keys are missing, which are too many, and what differs in shape."""
    found = []
    for words in ("Missing", "Unexpected"):
        match = re.search(
            rf"{words} key\(s\) in state_dict: (.+?)\.\s*(\n|$)", crash.text, re.DOTALL
        )
        if match:
            keys = re.findall(r'"([^"]+)"', match[1])
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""  # noqa: PLR2004
            found.append(f"{words.lower()} {', '.join(keys[:3])}{more}")
    found += [
        f"{key} is {theirs} in the checkpoint and {ours} in the net"
        for key, theirs, ours in re.findall(
            r"size mismatch for (\S+): .*?torch\.Size\((\[.*?\])\).*?torch\.Size\((\[.*?\])\)",
            crash.text,
        )[:3]
    ]
    return Reading("; ".join(found) or first_line(crash.text))
