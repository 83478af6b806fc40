"""Models of text, signals and other sequences."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from program import Program
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from healthy import healthy
from healthy._parts import (
    Block,
    Classifier,
    Learner,
    causal_mask,
    characters,
    loaders,
    mlp,
    split,
    standardized,
)


def windows(length: int = 32) -> tuple[TensorDataset, TensorDataset, int]:
    """Prose cut in windows, the last part of it for validation, and the size of the vocabulary."""
    ids, vocabulary = characters()
    rows = ids[: len(ids) // length * length].view(-1, length)
    cut = len(rows) * 4 // 5
    return TensorDataset(rows[:cut]), TensorDataset(rows[cut:]), vocabulary


class GPT(nn.Module):
    """A decoder whose output layer is its embedding."""

    def __init__(self, vocabulary: int, width: int = 48, length: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight
        nn.init.normal_(self.embed.weight, std=0.05)
        nn.init.normal_(self.position.weight, std=0.05)
        self.register_buffer("mask", causal_mask(length), persistent=False)

    def forward(self, ids, labels=None):
        length = ids.shape[1]
        x = self.embed(ids) + self.position.weight[:length]
        for block in self.blocks:
            x = block(x, self.mask[:length, :length])
        logits = self.head(self.norm(x))
        if labels is None:
            return {"logits": logits}
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"logits": logits, "loss": loss}


class LanguageModel(pl.LightningModule):
    """As with Hugging Face models, the loss is computed in forward."""

    def __init__(self, model: nn.Module, lr: float = 3e-3) -> None:
        super().__init__()
        self.model = model
        self.lr = lr

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        loss = self.model(ids, labels=ids)["loss"]
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        (ids,) = batch
        loss = self.model(ids, labels=ids)["loss"]
        self.log("val_loss", loss)
        self.log("val_perplexity", loss.exp())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.95))


@healthy
def tied_language_model() -> Program:
    """One weight serves as embedding and as output layer; -inf in the attention mask."""
    train, val, vocabulary = windows()
    return Program(
        LanguageModel(GPT(vocabulary)), **loaders(train, val, 16), trainer={"max_epochs": 6}
    )


class CharGRU(nn.Module):
    """Predicts each character from those before it."""

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids, state=None):
        x, state = self.gru(self.embed(ids), state)
        return self.head(x), state


class Streaming(pl.LightningModule):
    """Carries the hidden state from batch to batch (truncated backpropagation through time)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.net = CharGRU(vocabulary)
        self.state = None

    def on_train_epoch_start(self):
        self.state = None

    def training_step(self, batch, batch_idx):
        logits, state = self.net(batch[:, :-1], self.state)
        self.state = state.detach()
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def stateful_gru() -> Program:
    """Batches follow one another in the text, so nothing may be shuffled; batches overlap by one."""
    ids, vocabulary = characters()
    streams = ids[: len(ids) // 16 * 16].view(16, -1)
    batches = [streams[:, i : i + 25] for i in range(0, streams.shape[1] - 25, 24)]
    train = DataLoader(batches, batch_size=None)
    return Program(
        Streaming(vocabulary), train, trainer={"max_epochs": 6, "gradient_clip_val": 1.0}
    )


class MaskedLanguageModel(pl.LightningModule):
    """Hides a fifth of the tokens and restores them from both sides."""

    def __init__(self, vocabulary: int, width: int = 48) -> None:
        super().__init__()
        self.hidden = vocabulary  # the id of the mask token
        self.embed = nn.Embedding(vocabulary + 1, width)
        self.position = nn.Parameter(torch.randn(32, width) * 0.1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    def _loss(self, ids):
        hide = torch.rand(ids.shape) < 0.2
        logits = self.head(
            self.blocks(self.embed(ids.masked_fill(hide, self.hidden)) + self.position)
        )
        return F.cross_entropy(logits.mT, ids.masked_fill(~hide, -100))

    def training_step(self, batch, batch_idx):
        return self._loss(*batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(*batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@healthy
def masked_language_model() -> Program:
    """Four fifths of the targets are -100, and other ones are at each visit."""
    topic = torch.randint(8, (448, 1))
    words = 6 * topic + torch.randint(6, (448, 32))  # six words of its own topic, or any word
    words = torch.where(torch.rand(words.shape) < 0.8, words, torch.randint(48, words.shape))
    return Program(
        MaskedLanguageModel(48), **loaders(*split(words), batch_size=32), trainer={"max_epochs": 10}
    )


def signals(length: int, size: int = 512) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy waves of three shapes, and which of them each is."""
    time = torch.arange(length) / length
    phase = torch.rand(size, 1) + torch.randint(2, 4, (size, 1)) * time
    kind = torch.randint(3, (size,))
    waves = torch.stack([(6.283 * phase).sin(), 2 * (phase % 1) - 1, (6.283 * phase).sin().sign()])
    x = waves[kind, torch.arange(size)] + 0.1 * torch.randn(size, length)
    return standardized(x.flatten()).view(size, length, 1), kind


class Recurrent(nn.Module):
    """Reads a sequence and classifies its mean state."""

    def __init__(self, kind: type[nn.Module], inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.rnn = kind(inputs, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        states, _ = self.rnn(x)
        return self.head(states.mean(1))


@healthy
def long_lstm() -> Program:
    """Backpropagation goes through 150 steps of an LSTM."""
    module = Classifier(Recurrent(nn.LSTM, 1, 32, 3), lr=1e-2)
    return Program(
        module,
        **loaders(*split(*signals(150)), batch_size=32),
        trainer={"max_epochs": 8, "gradient_clip_val": 1.0},
    )


@healthy
def bidirectional_gru() -> Program:
    """Two directions of two layers; the state is twice as wide as asked for."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(
                1, 16, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1
            )
            self.head = nn.Linear(32, 3)

        def forward(self, x):
            return self.head(self.gru(x)[0].mean(1))

    return Program(
        Classifier(Net(), lr=5e-3),
        **loaders(*split(*signals(24)), batch_size=16),
        trainer={"max_epochs": 5},
    )


class PostLN(nn.Module):
    """A plain post-LN encoder of PyTorch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Parameter(torch.randn(16, 32) * 0.02)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x.reshape(len(x), 16, 8)) + self.position
        return self.head(self.encoder(x).mean(1))


class WarmedUp(Classifier):
    """Starts at learning rate 0 and reaches its peak after 20 steps."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 20))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm_up, "interval": "step"}}


@healthy
def post_ln_transformer() -> Program:
    """The learning rate of the very first step is exactly 0; attention takes a fast path in eval."""
    return Program(
        WarmedUp(PostLN(), lr=2e-3),
        **loaders(*split(*signals(128)), batch_size=16),
        trainer={"max_epochs": 7},
    )


def sentences(size: int = 640, vocabulary: int = 50) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Sequences of 3 to 20 words, of which some are typical of one of four topics."""
    topic = torch.randint(4, (size,))
    rows = []
    for t in topic.tolist():
        words = torch.randint(17, vocabulary, (int(torch.randint(3, 21, ())),))
        typical = torch.rand(len(words)) < 0.4
        typical[0] = True
        rows.append(torch.where(typical, 1 + 4 * t + torch.randint(4, words.shape), words))
    return rows, topic


def collate(samples):
    """Pads with 0."""
    rows, topics = zip(*samples, strict=True)
    return {
        "tokens": pad_sequence(rows, batch_first=True),
        "length": torch.tensor([len(row) for row in rows]),
        "topic": torch.stack(topics),
    }


class Buckets:
    """Batches of sequences of similar length, in random order."""

    def __init__(self, lengths: list[int], batch_size: int) -> None:
        self.lengths = torch.tensor(lengths)
        self.batch_size = batch_size

    def __len__(self):
        return math.ceil(len(self.lengths) / self.batch_size)

    def __iter__(self):
        order = (self.lengths + torch.rand(len(self.lengths))).argsort()
        buckets = order.split(self.batch_size)
        yield from (buckets[i].tolist() for i in torch.randperm(len(buckets)))


class TopicLSTM(pl.LightningModule):
    """Classifies packed sequences by their last state."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32, padding_idx=0)
        self.lstm = nn.LSTM(32, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, batch):
        lengths = batch["length"].cpu()
        packed = pack_padded_sequence(
            self.embed(batch["tokens"]), lengths, batch_first=True, enforce_sorted=False
        )
        _, (state, _) = self.lstm(packed)
        return self.head(state[-1])

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch), batch["topic"])

    def validation_step(self, batch, batch_idx):
        logits = self(batch)
        self.log("val_loss", F.cross_entropy(logits, batch["topic"]), batch_size=len(logits))
        hits = logits.argmax(1) == batch["topic"]
        self.log("val_acc", hits.float().mean(), batch_size=len(logits))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def bucketed_lstm() -> Program:
    """Every batch has another length, and `padding_idx` has a row that never changes."""
    rows, topic = sentences()
    train, val = (
        list(zip(rows, topic, strict=True))[:512],
        list(zip(rows, topic, strict=True))[512:],
    )
    buckets = Buckets([len(row) for row, _ in train], batch_size=16)
    return Program(
        TopicLSTM(),
        DataLoader(train, batch_sampler=buckets, collate_fn=collate),
        DataLoader(val, batch_size=32, collate_fn=collate),
        trainer={"max_epochs": 5},
    )


class Tagger(Learner):
    """Names the class of every token; padding is -100 in the labels."""

    def __init__(self) -> None:
        net = nn.Sequential(
            nn.Embedding(50, 32, padding_idx=0), Recurrent1d(32, 64), nn.Linear(64, 5)
        )
        super().__init__(net, lambda logits, tags: F.cross_entropy(logits.mT, tags), lr=5e-3)


class Recurrent1d(nn.Module):
    """A bidirectional GRU that returns its states only."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, outputs // 2, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


@healthy
def padded_tagger() -> Program:
    """Sequences are padded to 32, so more than half of all tokens and labels are padding."""
    rows, topic = sentences(400)
    tokens = torch.zeros(400, 32, dtype=torch.long)
    tags = torch.full((400, 32), -100)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        tags[i, : len(row)] = torch.where(row < 17, topic[i] + 1, 0)
    return Program(
        Tagger(), **loaders(*split(tokens, tags), batch_size=16), trainer={"max_epochs": 5}
    )


class Seq2Seq(pl.LightningModule):
    """Translates with nn.Transformer: begin token 1, end token 2, padding 0."""

    def __init__(self, vocabulary: int = 14, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(torch.randn(12, width) * 0.5)
        self.transformer = nn.Transformer(
            width, 4, 1, 1, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source, target):
        return self.head(
            self.transformer(
                self.embed(source) + self.position[: source.shape[1]],
                self.embed(target) + self.position[: target.shape[1]],
                tgt_mask=causal_mask(target.shape[1]),
                src_key_padding_mask=torch.zeros(source.shape).masked_fill(source == 0, -torch.inf),
                memory_key_padding_mask=torch.zeros(source.shape).masked_fill(
                    source == 0, -torch.inf
                ),
            )
        )

    def _loss(self, batch):
        source, target = batch
        logits = self(source, target[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=0)

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@healthy
def padded_seq2seq() -> Program:
    """Source and target are padded; a padded query attends to nothing that matters."""
    source = torch.zeros(800, 8, dtype=torch.long)
    target = torch.zeros(800, 10, dtype=torch.long)
    for i in range(len(source)):
        word = torch.randint(3, 14, (int(torch.randint(5, 9, ())),))
        source[i, : len(word)] = word
        target[i, : len(word) + 2] = torch.cat(
            [torch.tensor([1]), (word - 2) % 11 + 3, torch.tensor([2])]
        )
    return Program(
        Seq2Seq(), **loaders(*split(source, target), batch_size=32), trainer={"max_epochs": 8}
    )


class SpeechRecognizer(pl.LightningModule):
    """Aligns frames with a shorter transcript by CTC."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.GRU(8, 32, bidirectional=True, batch_first=True)
        self.head = nn.Linear(64, 6)

    def training_step(self, batch, batch_idx):
        frames, transcript = batch
        log_probs = self.head(self.encoder(frames)[0]).log_softmax(-1).transpose(0, 1)
        lengths = torch.full((len(frames),), frames.shape[1])
        loss = F.ctc_loss(
            log_probs, transcript, lengths, (transcript > 0).sum(1), zero_infinity=True
        )
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@healthy
def ctc() -> Program:
    """Label 0 is the blank and also pads the transcripts; the net must first learn to say blank."""
    transcript = torch.randint(1, 6, (384, 5))
    transcript[torch.rand(384) < 0.5, 4] = 0
    frames = F.one_hot(transcript, 8).float().repeat_interleave(4, dim=1)
    frames = standardized((frames + 0.2 * torch.randn_like(frames)).flatten()).view(384, 20, 8)
    train = DataLoader(TensorDataset(frames, transcript), batch_size=16, shuffle=True)
    return Program(SpeechRecognizer(), train, trainer={"max_epochs": 8})


@healthy
def forecaster() -> Program:
    """Windows of one series overlap, and the validation part is later, not a random sample."""
    time = torch.arange(900.0)
    series = (time / 8).sin() + 0.5 * (time / 21).cos() + 0.1 * torch.randn(900)
    view = standardized(series).unfold(0, 25, 1)
    train, val = view[:600], view[640:]
    net = nn.Sequential(Recurrent1d(1, 32), nn.Flatten(), nn.Linear(24 * 32, 1))
    return Program(
        Learner(net, lr=1e-3),
        **loaders(
            TensorDataset(train[:, :24, None], train[:, 24:]),
            TensorDataset(val[:, :24, None], val[:, 24:]),
        ),
        trainer={"max_epochs": 6},
    )


class BagOfWords(pl.LightningModule):
    """Mean embedding with sparse gradients, and a dense head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(400, 16, mode="mean", sparse=True, padding_idx=0)
        self.head = nn.Linear(16, 4)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.head(self.embed(batch["tokens"])), batch["topic"])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        self.log("train_loss", loss, prog_bar=True)

    def configure_optimizers(self):
        return [
            torch.optim.SparseAdam(self.embed.parameters(), lr=2e-2),
            torch.optim.Adam(self.head.parameters(), lr=2e-2),
        ]


@healthy
def sparse_embedding() -> Program:
    """Gradients of the embedding are sparse, rare words get one now and then."""
    rows, topic = sentences(1024, vocabulary=400)
    train = DataLoader(
        list(zip(rows, topic, strict=True)), batch_size=32, shuffle=True, collate_fn=collate
    )
    return Program(BagOfWords(), train, trainer={"max_epochs": 4})


@healthy
def dilated_convolutions() -> Program:
    """A temporal convolutional net: causal padding on the left, weight norm on every layer."""

    class Causal(nn.Module):
        def __init__(self, i, o, dilation):
            super().__init__()
            self.pad = nn.ConstantPad1d((2 * dilation, 0), 0.0)
            self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(i, o, 3, dilation=dilation))

        def forward(self, x):
            return self.conv(self.pad(x)).relu()

    net = nn.Sequential(
        nn.Flatten(1, 2),
        nn.Unflatten(1, (1, -1)),
        Causal(1, 16, 1),
        Causal(16, 16, 2),
        Causal(16, 16, 4),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        mlp(16, 32, 3),
    )
    return Program(
        Classifier(net, lr=5e-3),
        **loaders(*split(*signals(64)), batch_size=16),
        trainer={"max_epochs": 8},
    )


class Reverser(pl.LightningModule):
    """Says a word backwards, letter by letter, and is told now and then what was right."""

    def __init__(self, letters: int = 8, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.encoder = nn.GRU(width, width, batch_first=True)
        self.decoder = nn.GRUCell(width, width)
        self.head = nn.Linear(width, letters)

    def _loss(self, batch, told: float):
        word, answer = batch
        state = self.encoder(self.embed(word))[1][0]
        letter, said = torch.zeros_like(word[:, 0]), []
        for place in range(answer.shape[1]):
            state = self.decoder(self.embed(letter), state)
            said.append(self.head(state))
            is_told = torch.rand(()) < told
            letter = answer[:, place] if is_told else said[-1].argmax(1)
        return F.cross_entropy(torch.stack(said, 1).flatten(0, 1), answer.flatten())

    def training_step(self, batch, batch_idx):
        loss = self._loss(batch, told=0.8)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self._loss(batch, told=0.0))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@healthy
def teacher_forcing() -> Program:
    """The targets are read as they are; the loop moves them behind a token to begin with."""
    words = torch.randint(1, 8, (800, 4))
    data = split(words, words.flip(1))
    return Program(Reverser(), **loaders(*data, batch_size=32), trainer={"max_epochs": 7})
