"""Script 3: the model, MobileNetV2 + LSTM.

    python model.py                     # -> graphs/complexity.csv, graphs/complexity.png
    python model.py --embed_size 512    # a wider embedding; the row ResNet-18 (512) is there anyway

    image (3, S, S) -> MobileNetV2 -> pooled feature (1280) -> Linear -> BatchNorm -> embedding (300) -> LSTM -> words

With `decoder` attention there is no pooling: each position of the feature grid has an embedding, and the LSTM attends
to them for each word.

Reads   nothing as a script; `encoder_weights` where a model is built
Writes  graphs/complexity.csv and graphs/complexity.png, as a script

ENCODERS and DECODERS list what there is. A new one needs an entry there, and no change elsewhere.

Run as a script it prints the complexity of both encoders: parameters, multiply-accumulates (MACs, counted by thop on
a copy), the size of the weights, and the latency of one forward pass, median after warm-up.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements.txt", "torch", "tyro")

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from captioning import cli
from captioning.checkpoint import load_checkpoint, load_state_dict, load_weights
from captioning.data.tokenizer import tokenizer_name
from captioning.deploy.downloads import fetch_model, find_file, loading
from captioning.files import check_folder, replace_file
from captioning.mobilenet import FEATURE_DIM, mobilenet_v2
from captioning.runtime import pick_device
from captioning.untrusted import write_table
from vocab import SPECIALS, Vocabulary

CONFIG = {
    # encoder
    "encoder": "mobilenet_v2",  # mobilenet_v2 | resnet18
    "encoder_weights": "checkpoints/pictograms.safetensors",  # imagenet | none | photos | aerial | path or URL
    "embed_size": 300,  # width of the image embedding and of the word embeddings
    # decoder
    "decoder": "lstm",  # lstm: one image vector | attention: LSTM that attends to the positions of the feature map
    "hidden_size": 512,  # width of the LSTM's state
    "num_layers": 1,  # layers of the LSTM; decoder attention has 1
    "image_input": "first",  # the lstm's image is first: first input | state: initial state | every: both
    "attention_size": 256,  # width of the attention's hidden layer
    "input_dropout": 0.5,  # dropout on the word embeddings
    "dropout": 0.5,  # dropout on the LSTM's outputs
    "layer_dropout": 0.0,  # dropout between the LSTM's layers
    "tie_weights": False,  # share the input embedding and the output matrix
}

LIMITS = {
    "embed_size": (1, 8192),
    "hidden_size": (1, 8192),
    "num_layers": (1, 8),
    "attention_size": (1, 8192),
    "input_dropout": (0.0, 0.95),
    "dropout": (0.0, 0.95),
    "layer_dropout": (0.0, 0.95),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(("encoder", "encoder_weights", "decoder", "image_input"), str)
TYPES |= {"tie_weights": bool}

IMAGE_INPUTS = ("first", "state", "every")


DESCRIBED_BLOCKS = (9, 5, 2, 1)  # of the encoder, counted from the last; see captioning/familiarity.py
IMAGENET_SIZE = 224  # pixels a side at which torchvision's weights were trained


class Positions(nn.Module):
    """(B, D, h, w) feature maps -> (B, P, D), the feature of each of P = h * w positions, row by row."""

    def forward(self, maps):
        return maps.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Backbone:
    """A CNN that an EncoderCNN can be built on.

    title:       as printed
    run_name:    default name of a run that trains it
    feature_dim: channels D of its last feature maps
    num_blocks:  how many blocks there are, any number of which can be fine-tuned
    weights:     torchvision's enum of its weights
    build:       (pooling modules, grid) -> the network with random weights; (B, 3, S, S) -> (B, D), or (B, P, D)
    blocks:      the network -> its blocks in order, without the pooling
    rename:      name in torchvision's state_dict -> name in ours; "" = the weight is left out
    """

    title: str
    run_name: str
    feature_dim: int
    num_blocks: int
    weights: str
    build: Callable
    blocks: Callable
    rename: Callable


def build_mobilenet(pooling, grid):
    """Return MobileNetV2 without its classifier."""
    return nn.Sequential(mobilenet_v2(), *pooling)


def build_resnet(pooling, grid):
    """Return torchvision's ResNet-18 without its classifier. It flattens after the pooling, which a grid undoes."""
    import torchvision  # slow to import, as captioning/mobilenet.py tells

    network = torchvision.models.resnet18(weights=None)
    feature_dim = network.fc.in_features
    network.avgpool = nn.Sequential(*pooling, nn.Flatten())
    network.fc = nn.Unflatten(1, (-1, feature_dim)) if grid else nn.Identity()
    return network


def resnet_blocks(network):
    """Return ResNet-18's stem and its 8 residual blocks."""
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return [stem, *network.layer1, *network.layer2, *network.layer3, *network.layer4]


ENCODERS = {
    "mobilenet_v2": Backbone(
        title="MobileNetV2",
        run_name="mobile",
        feature_dim=FEATURE_DIM,
        num_blocks=19,  # the last of them the 1x1 convolution to 1280
        weights="MobileNet_V2_Weights",
        build=build_mobilenet,
        blocks=lambda network: list(network[0]),
        rename=lambda name: f"0.{name.removeprefix('features.')}" if name.startswith("features.") else "",
    ),
    "resnet18": Backbone(
        title="ResNet-18",
        run_name="resnet",
        feature_dim=512,
        num_blocks=9,  # the first of them the stem
        weights="ResNet18_Weights",
        build=build_resnet,
        blocks=resnet_blocks,
        rename=lambda name: "" if name.startswith("fc.") else name,
    ),
}


def find_encoder(name):
    """Return the Backbone of this name. Raises ValueError if there is none."""
    if name not in ENCODERS:
        raise ValueError(f"model.encoder: got {name!r}, allowed are {', '.join(ENCODERS)}")
    return ENCODERS[name]


class EncoderCNN(nn.Module):
    """One embedding per image: CNN -> global average pool -> Linear -> BatchNorm1d.

    name: key of ENCODERS
    grid: no pool; an embedding for each of P positions: 7 x 7 at 224 px, 8 x 8 at 256 px

    Raises ValueError for an unknown name.
    """

    def __init__(self, name="mobilenet_v2", embed_size=300, grid=False):
        super().__init__()
        self.kind = find_encoder(name)
        self.feature_dim = self.kind.feature_dim
        self.pooling = [Positions()] if grid else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.backbone = self.kind.build(self.pooling, grid)
        self.linear = nn.Linear(self.feature_dim, embed_size)
        self.norm = nn.BatchNorm1d(embed_size)

    def blocks(self):
        """Return the backbone's blocks in order, as a list of modules that share its weights; no pooling."""
        return self.kind.blocks(self.backbone)

    def cut(self, num_blocks):
        """Cut the backbone in two before its last `num_blocks` blocks: (trunk, head); the head has the pooling too.

        head(trunk(images)) is backbone(images). With 0 the trunk is the whole backbone and the head is the identity;
        the trunk then returns features instead of feature maps.
        """
        if not num_blocks:
            return self.backbone, nn.Identity()
        blocks = self.blocks()
        return nn.Sequential(*blocks[:-num_blocks]), nn.Sequential(*blocks[-num_blocks:], *self.pooling)

    def embed(self, features):
        """(B, D) pooled features -> (B, E) embedding, or (B, P, D) of positions -> (B, P, E)."""
        embedding = self.linear(features)
        return self.norm(embedding.flatten(0, -2)).view_as(embedding)

    def forward(self, images):
        """(B, 3, S, S) normalised images -> (B, E) embedding, or (B, P, E) with grid."""
        return self.embed(self.backbone(images))

    def describe(self, images):
        """(B, 3, S, S) -> as `forward`, and the descriptions of the images that captioning.familiarity reads.

        These are a list with (B, 2 C) float for each described block of C channels: means, then standard deviations.
        """
        outputs, parts, blocks = images, [], self.blocks()
        described = {len(blocks) - place for place in DESCRIBED_BLOCKS}
        for number, block in enumerate(blocks):
            outputs = block(outputs)
            if number in described:
                maps = outputs.float()
                parts.append(torch.cat([maps.mean((2, 3)), maps.std((2, 3), correction=0)], dim=1))
        for module in self.pooling:
            outputs = module(outputs)
        return self.embed(outputs), parts


class Decoder(nn.Module):
    """Base of the decoders: word embeddings, output layer, teacher forcing and the decoding step.

    output_size: width of what `unroll` returns
    dropout:     on what `unroll` returns; input_dropout: on the word embeddings
    tie_weights: share the input embedding and the output matrix (Press and Wolf 2017, arXiv:1608.05859)

    A subclass adds start(image) -> state and unroll(tokens (N, T), state) -> (outputs (N, T, output_size), state); a
    state is a tuple of tensors (N, ...). One with attention sets `has_attention` and adds `attend` and
    `step_and_attend`.
    """

    settings = ()  # keys of CONFIG that it takes beside those of this base class
    unsupported = ()  # pairs of a key of CONFIG and the only value that it can have
    reads_grid = False  # its image embedding is (N, P, E), one vector for each position, instead of (N, E)
    has_attention = False  # it can return the attention weights

    def __init__(self, vocab_size, embed_size, output_size, *, input_dropout=0.5, dropout=0.5, tie_weights=False):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_size, padding_idx=0)
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.tie_weights = tie_weights
        if not tie_weights:
            self.output = nn.Linear(output_size, vocab_size)
        else:
            self.output = nn.Linear(output_size, embed_size) if output_size != embed_size else nn.Identity()
            self.bias = nn.Parameter(torch.zeros(vocab_size))
            nn.init.normal_(self.embedding.weight, std=embed_size**-0.5)  # else the first scores are far from even

    def score(self, outputs):
        """(..., output_size) -> (..., V) logits."""
        outputs = self.output(self.dropout(outputs))
        return F.linear(outputs, self.embedding.weight, self.bias) if self.tie_weights else outputs

    def forward(self, image, tokens):
        """Score every next token under teacher forcing.

        image:   (N, E) float, one image embedding per caption; for attention (N, P, E)
        tokens:  (N, T) long, <start> w1 ...; <pad> only on the right
        returns: (N, T, V) logits; [:, t] scores the token after tokens[:, t]

        Right padding cannot reach an earlier logit; the loss ignores pad_id.
        Raises ValueError if the batch sizes differ.
        """
        if len(image) != len(tokens):
            raise ValueError(f"decoder: {len(image)} image embeddings for {len(tokens)} captions")
        outputs, _ = self.unroll(tokens, self.start(image))
        return self.score(outputs)

    def step(self, tokens, state):
        """(N,) tokens and a state -> (N, V) log-probabilities of the next token, and the next state."""
        outputs, state = self.unroll(tokens[:, None], state)
        return F.log_softmax(self.score(outputs[:, 0]).float(), dim=1), state

    def make_step(self):
        """Return `step` for a search with the current weights in eval(); a subclass may return a faster equivalent."""
        return self.step

    @property
    def word_weights(self):
        """The names of the weights that have a row for each word."""
        scores = ("bias",) if self.tie_weights else ("output.weight", "output.bias")
        return ("embedding.weight", *scores)

    def train_mode(self, stage):
        """Go into training mode for the stage of this name.

        Self-critical training has no dropout, so that the samples come from the policy that is trained.
        """
        self.train(stage != "self-critical")


class DecoderRNN(Decoder):
    """An LSTM that generates a caption from an image embedding (Vinyals et al. 2015, arXiv:1411.4555).

    image_input:   "first", the image is the LSTM's first input, before <start>; "state", it gives the initial state;
                   "every", it gives the initial state and is concatenated to every word embedding
    layer_dropout: between the LSTM's layers, of which there must be two or more
    common:        input_dropout, dropout, tie_weights of Decoder
    """

    settings = ("num_layers", "image_input", "layer_dropout")

    def __init__(
        self, vocab_size, embed_size=300, hidden_size=512, *, num_layers=1, image_input="first", layer_dropout=0.0,
        **common,
    ):  # fmt: skip
        super().__init__(vocab_size, embed_size, hidden_size, **common)
        if image_input not in IMAGE_INPUTS:
            raise ValueError(f"model.image_input: got {image_input!r}, allowed are {', '.join(IMAGE_INPUTS)}")
        if layer_dropout and num_layers == 1:
            raise ValueError(f"model.layer_dropout: got {layer_dropout}, with num_layers 1 it must be 0")
        self.image_input, self.layer_dropout = image_input, layer_dropout
        input_size = 2 * embed_size if image_input == "every" else embed_size
        self.lstm = nn.LSTM(input_size, hidden_size, num_layers, batch_first=True, dropout=layer_dropout)
        if image_input != "first":
            self.initial = nn.Linear(embed_size, 2 * num_layers * hidden_size)

    def start(self, image):
        """(B, E) image embedding -> the state before <start>: hidden and cell (B, L, H); for "every" the image too."""
        batch, layers, hidden = image.shape[0], self.lstm.num_layers, self.lstm.hidden_size
        if self.image_input == "first":
            _, (h, c) = self.lstm(image[:, None])
            return h.transpose(0, 1), c.transpose(0, 1)
        h, c = self.initial(image).view(batch, 2, layers, hidden).unbind(dim=1)
        return torch.tanh(h), c, *([image] if self.image_input == "every" else [])

    def unroll(self, tokens, state):
        """(N, T) tokens from a state -> (N, T, H) LSTM outputs and the state after them."""
        h, c, *image = state
        inputs = self.input_dropout(self.embedding(tokens))  # (N, T, E)
        if image:
            inputs = torch.cat([inputs, image[0][:, None].expand(-1, tokens.shape[1], -1)], dim=2)  # (N, T, 2E)
        outputs, (h, c) = self.lstm(inputs, (h.transpose(0, 1).contiguous(), c.transpose(0, 1).contiguous()))
        return outputs, (h.transpose(0, 1), c.transpose(0, 1), *image)

    def train_mode(self, stage):
        """As Decoder.train_mode. The LSTM itself stays in train(), since cuDNN has no gradient for one in eval()."""
        super().train_mode(stage)
        self.lstm.train()
        self.lstm.dropout = 0.0 if stage == "self-critical" else self.layer_dropout

    def make_step(self):
        """As Decoder.make_step: the product of each word with the input weights, (V, 4H), is computed once.

        It is a third of a step's work at 160 rows; at five rows most of it is nn.LSTM's overhead. Results equal those
        of `step` up to rounding.
        """
        lstm, size = self.lstm, self.lstm.hidden_size
        if lstm.num_layers > 1 or self.image_input == "every":
            return self.step
        of_words = F.linear(self.embedding.weight, lstm.weight_ih_l0, lstm.bias_ih_l0 + lstm.bias_hh_l0)  # (V, 4H)
        from_hidden = lstm.weight_hh_l0.t().to(of_words.dtype).contiguous()  # (H, 4H), once where autocast is on

        def step(tokens, state):
            h, c = state
            gates = torch.addmm(of_words.index_select(0, tokens), h[:, 0], from_hidden)  # input, forget, cell, output
            keep, forget, _, show = torch.sigmoid(gates).chunk(4, dim=1)
            new = torch.tanh(gates[:, 2 * size : 3 * size])
            c = torch.addcmul(keep * new, forget, c[:, 0])
            h = show * torch.tanh(c)
            return F.log_softmax(self.score(h).float(), dim=1), (h[:, None], c[:, None])

        return step


class AttentionRNN(Decoder):
    """An LSTM with "soft" attention over the positions of the feature grid (Xu et al. 2015, arXiv:1502.03044).

    The weights are the softmax over positions of v . tanh(keys + query), as in Bahdanau et al. 2015. The context
    vector passes the gate of section 4.2.1; with the last word and the state it scores the next word (equation 7).

    common: input_dropout, dropout, tie_weights of Decoder
    """

    settings = ("attention_size",)
    unsupported = (("num_layers", 1), ("image_input", "first"), ("layer_dropout", 0))
    reads_grid = has_attention = True

    def __init__(self, vocab_size, embed_size=300, hidden_size=512, *, attention_size=256, **common):
        super().__init__(vocab_size, embed_size, embed_size, **common)
        self.initial = nn.Linear(embed_size, 2 * hidden_size)
        self.key = nn.Linear(embed_size, attention_size)
        self.query = nn.Linear(hidden_size, attention_size, bias=False)
        self.compare = nn.Linear(attention_size, 1, bias=False)
        self.gate = nn.Linear(hidden_size, embed_size)
        self.lstm = nn.LSTMCell(2 * embed_size, hidden_size)
        self.from_hidden = nn.Linear(hidden_size, embed_size)
        self.from_image = nn.Linear(embed_size, embed_size, bias=False)

    def start(self, image):
        """(B, P, E) image embedding -> hidden and cell (B, H), the image (B, P, E) and its keys (B, P, A)."""
        h, c = self.initial(image.mean(dim=1)).chunk(2, dim=1)
        return torch.tanh(h), torch.tanh(c), image, self.key(image)

    def unroll_and_attend(self, tokens, state):
        """(N, T) tokens from a state -> (N, T, E) outputs, (N, T, P) attention weights, and the state after them."""
        h, c, image, keys = state
        outputs, attention = [], []
        for word in self.input_dropout(self.embedding(tokens)).unbind(dim=1):  # (N, E)
            weights = self.compare(torch.tanh(keys + self.query(h)[:, None]))[:, :, 0].softmax(dim=1)  # (N, P)
            context = torch.sigmoid(self.gate(h)) * (weights[:, None].to(image.dtype) @ image)[:, 0]  # (N, E)
            h, c = self.lstm(torch.cat([word, context], dim=1), (h, c))
            outputs.append(word + self.from_hidden(h) + self.from_image(context))
            attention.append(weights)
        return torch.stack(outputs, dim=1), torch.stack(attention, dim=1), (h, c, image, keys)

    def unroll(self, tokens, state):
        """(N, T) tokens from a state -> (N, T, E) outputs and the state after them."""
        outputs, _, state = self.unroll_and_attend(tokens, state)
        return outputs, state

    def attend(self, image, tokens):
        """As forward -> (N, T, V) logits, and the attention weights (N, T, P) of each next token, which sum to 1."""
        outputs, attention, _ = self.unroll_and_attend(tokens, self.start(image))
        return self.score(outputs), attention

    def step_and_attend(self, tokens, state):
        """As step -> (N, V) log-probabilities, the attention weights (N, P), and the next state."""
        outputs, attention, state = self.unroll_and_attend(tokens[:, None], state)
        return F.log_softmax(self.score(outputs[:, 0]).float(), dim=1), attention[:, 0], state


DECODERS = {"lstm": DecoderRNN, "attention": AttentionRNN}


def image_vector(embedding):
    """(B, E) embedding -> itself; of positions (B, P, E) -> (B, E), their mean."""
    return embedding if embedding.ndim == 2 else embedding.mean(dim=1)


class CNNtoRNN(nn.Module):
    """The captioner: EncoderCNN, a decoder, and two heads on the image embedding for auxiliary losses.

    encoder, decoder: keys of ENCODERS and DECODERS; the other settings are those of CONFIG
    classifier:       class logits (B, C); where num_classes > 0
    word_detector:    logits (B, V) of each word standing in a caption (Fang et al. 2015, arXiv:1411.4952);
                      where detect_words

    The heads give an encoder with random weights a gradient before the decoder has learned anything.
    Raises ValueError for an unknown name, and for a setting that the decoder does not support.
    """

    def __init__(
        self, vocab_size, num_classes=0, detect_words=False, *, encoder="mobilenet_v2", embed_size=300, decoder="lstm",
        hidden_size=512, num_layers=1, image_input="first", attention_size=256, input_dropout=0.5, dropout=0.5,
        layer_dropout=0.0, tie_weights=False,
    ):  # fmt: skip
        super().__init__()
        if decoder not in DECODERS:
            raise ValueError(f"model.decoder: got {decoder!r}, allowed are {', '.join(DECODERS)}")
        given = {
            "num_layers": num_layers, "image_input": image_input, "layer_dropout": layer_dropout,
            "attention_size": attention_size,
        }  # fmt: skip
        kind = DECODERS[decoder]
        for name, only in kind.unsupported:
            if given[name] != only:
                raise ValueError(f"model.{name}: got {given[name]!r}, with decoder {decoder} it must be {only!r}")
        self.encoder = EncoderCNN(encoder, embed_size, grid=kind.reads_grid)
        self.decoder = kind(
            vocab_size, embed_size, hidden_size, input_dropout=input_dropout, dropout=dropout, tie_weights=tie_weights,
            **{name: given[name] for name in kind.settings},
        )  # fmt: skip
        self.classifier = nn.Linear(embed_size, num_classes) if num_classes else None
        self.word_detector = nn.Linear(embed_size, vocab_size) if detect_words else None

    def class_logits(self, embeddings):
        """(B, E) or (B, P, E) image embeddings -> (B, C) logits of the auxiliary classifier."""
        return self.classifier(image_vector(embeddings))

    def word_logits(self, embeddings):
        """(B, E) or (B, P, E) image embeddings -> (B, V) logits of the auxiliary word detector."""
        return self.word_detector(image_vector(embeddings))

    def train_mode(self, stage):
        """Go into training mode for the stage of this name.

        Except in stage "everything" the backbone stays in eval(): its BatchNorm keeps the statistics of the millions
        of images that it was trained on, which small batches of a few thousand images would blur. Features cached in
        front of it would no longer fit it, either. The weights of a fine-tuned BatchNorm do train.
        """
        self.train(stage != "self-critical")
        self.decoder.train_mode(stage)
        if stage != "everything":
            self.encoder.backbone.eval()

    def forward(self, images, tokens, owner):
        """Images (B, 3, S, S), tokens (M, T), owner (M,) the image of each caption -> logits (M, T, V)."""
        return self.decoder(self.encoder(images)[owner], tokens)


def native_image_size(source):
    """Return the pixels a side that encoder weights were trained at; 0 = not known without reading or fetching them.

    source: as in load_encoder_weights
    """
    if source == "imagenet" or source.endswith((".pth", ".pt")):
        return IMAGENET_SIZE
    if source == "none" or "://" in source:
        return 0
    path = find_file(source)
    return load_checkpoint(path).transform["image_size"] if path.suffix == ".safetensors" and path.is_file() else 0


def load_fetched(path):
    """Read the Checkpoint at a path of fetch_model; a download that is none is dropped from the cache."""
    with loading(path):
        return load_checkpoint(path)


def load_encoder_weights(encoder, name, source):
    """Fill the CNN of an EncoderCNN from `source`; the Linear and BatchNorm too when it is one of our checkpoints.

    name:    key of ENCODERS
    source:  "none", "imagenet" (torchvision downloads it), a torchvision state_dict, or one of our checkpoints
             (a path, the name of a shipped one, https://... or hf://owner/name); of a checkpoint with another
             embed_size the CNN alone is taken, and a line says so
    returns: image size that the weights were trained at, 0 = not known
    Raises ValueError if the file is missing, damaged, or of another network.
    """
    if source == "none":
        return 0
    if source == "imagenet":
        import torchvision

        weights = getattr(torchvision.models, encoder.kind.weights)
        try:
            state = weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"model.encoder_weights: imagenet could not be downloaded ({cli.one_line(error, 120)}).\n"
                f"Go online once, or give --model.encoder_weights a torchvision {name} state_dict or one of our "
                f"checkpoints, or none (random weights)"
            ) from None
        load_torchvision(encoder, state, source)
        return IMAGENET_SIZE
    path = fetch_model(source)
    if not path.is_file():
        raise ValueError(f"model.encoder_weights: {source}: no such file; allowed are imagenet, none, or a file")
    if path.suffix == ".safetensors":
        checkpoint = load_fetched(path)
        own = checkpoint.config["model"].get("encoder")
        if own != name:
            raise ValueError(f"{source}: its encoder is {own}, this model's is {name} (model.encoder)")
        prefix = "encoder."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint.weights.items() if k.startswith(prefix)}
        own = encoder.state_dict()
        there, here = (len(one.get("linear.weight", ())) for one in (weights, own))
        if there != here:
            print(f"encoder_weights: {source} has embed_size {there}, this model {here}; its Linear starts afresh")
            weights = {name: own[name] if name.startswith(("linear.", "norm.")) else weights[name] for name in weights}
        load_weights(encoder, weights, source)
        return checkpoint.transform["image_size"]
    load_torchvision(encoder, load_state_dict(path, source), source)
    return IMAGENET_SIZE


def load_torchvision(encoder, state, source):
    """Load a torchvision state_dict, without its classifier, into the CNN of an EncoderCNN.

    Raises ValueError if it is of another network, naming some of its weights and the setting to change.
    """
    renamed = {new: tensor for name, tensor in state.items() if (new := encoder.kind.rename(name))}
    if encoder.backbone.state_dict().keys() - renamed.keys():
        found = ", ".join(cli.on_one_line(name)[:40] for name in sorted(state)[:3]) or "none"
        raise ValueError(
            f"{source}: its weights ({found} ...) are not those of {encoder.kind.title}; model.encoder chooses the "
            f"network, allowed are {', '.join(ENCODERS)}"
        )
    load_weights(encoder.backbone, renamed, source)


TRAINING_HEADS = ("classifier.", "word_detector.")  # prefixes of weights of auxiliary losses; no checkpoint has them


def build_model(vocab_size, config, *, num_classes=0, detect_words=False):
    """Return a CNNtoRNN with random weights, as the keys of model.CONFIG say."""
    return CNNtoRNN(
        vocab_size, num_classes, detect_words, **{k: v for k, v in config.items() if k != "encoder_weights"}
    )


def training_heads(model):
    """Return the weights of the auxiliary losses, which no checkpoint has, by name."""
    return {k: v for k, v in model.state_dict().items() if k.startswith(TRAINING_HEADS)}


def kept_weights(model):
    """Return the weights that a checkpoint has, by name."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith(TRAINING_HEADS)}


def start_model(vocabulary, classes, settings, model_config):
    """Build the model and load its first weights: (CNNtoRNN, image size they were trained at, 0 = not known).

    settings: train.CONFIG, of which it reads init, class_loss and word_loss
    """
    model = build_model(
        len(vocabulary),
        model_config,
        num_classes=len(classes) if settings["class_loss"] else 0,
        detect_words=settings["word_loss"] > 0,
    )
    if not settings["init"]:
        name, source = model_config["encoder"], model_config["encoder_weights"]
        return model, load_encoder_weights(model.encoder, name, source)
    checkpoint = load_fetched(fetch_model(settings["init"]))
    theirs, ours = tokenizer_name(checkpoint.tokenizer), tokenizer_name(vocabulary.tokenizer)
    if theirs != ours:
        raise ValueError(f"--train.init: {settings['init']} has the tokenizer {theirs}, the vocabulary {ours}; "
                         "they must be the same")  # fmt: skip
    given = dict(checkpoint.weights)
    if checkpoint.vocab != vocabulary.itos:
        names = [f"decoder.{name}" for name in model.decoder.word_weights]
        num_shared = move_words(given, kept_weights(model), names, checkpoint.vocab, vocabulary.itos)
        print(
            f"init: {num_shared:,} of {len(vocabulary):,} words keep their weights from {settings['init']}, "
            f"{len(vocabulary) - num_shared:,} start afresh"
        )
    load_weights(model, given | training_heads(model), settings["init"])
    return model, checkpoint.transform["image_size"]


def move_words(given, own, names, there, here):
    """Give the weights of a checkpoint the rows of another vocabulary, in place; return how many words both have.

    given, own:  name -> tensor, of the checkpoint and of the model with its random weights, whose rows new words keep
    names:       the weights with a row for each word
    there, here: the two vocabularies, lists of words, index = row
    """
    row_of = {word: row for row, word in enumerate(there)}
    shared = [(row_of[word], row) for row, word in enumerate(here) if word in row_of]
    old, new = (torch.tensor(rows) for rows in zip(*shared, strict=True))
    for name in names:
        fits = name in given and given[name].shape[1:] == own[name].shape[1:] and len(given[name]) == len(there)
        if fits:  # else load_weights names the difference
            rows = own[name].clone()
            rows[new] = given[name][old].to(rows.dtype)
            given[name] = rows
    return len(shared)


TRAINS_ONLY = ("input_dropout", "dropout", "layer_dropout", "encoder_weights")  # a checkpoint does not depend on these


def match_init(config, init):
    """Return the model's settings for a run that starts from a checkpoint: those of the checkpoint.

    config: settings of the run; one that differs from CONFIG was meant, and must be the checkpoint's

    What else of the checkpoint is not the default is printed. Raises ValueError naming the first setting that is meant
    and another.
    """
    theirs = load_fetched(fetch_model(init)).config["model"]
    matched, changed = dict(config), []
    for key, value in config.items():
        if key in TRAINS_ONLY or key not in theirs or value == theirs[key]:
            continue
        if value != CONFIG[key]:
            raise ValueError(f"--model.{key}: got {value}, {init}, which the run starts from, has {theirs[key]}")
        matched[key] = theirs[key]
        changed.append(f"{key} {theirs[key]}")
    if changed:
        print(f"init: as in {init}, {', '.join(changed)}")
    return matched


class NoInitialisation(TorchFunctionMode):
    """Skip weight initialisation; load_weights overwrites it, and on device "meta" torch would import its compiler."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.normal_, nn.init.normal_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def load_captioner(path, device="cpu"):
    """Read a checkpoint: (CNNtoRNN in eval(), Vocabulary, Checkpoint).

    A setting that its config lacks, since the file is older, takes its default of CNNtoRNN.
    Raises ValueError if the file is not a checkpoint, or its weights do not fit its own config and vocabulary.
    """
    checkpoint = load_checkpoint(path)
    try:
        vocabulary = Vocabulary(checkpoint.vocab, checkpoint.tokenizer)
        for key, (least, most) in LIMITS.items():
            value = checkpoint.config["model"].get(key, least)
            if isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"{key} is {value}, allowed is {least} to {most}")
        with torch.device("meta"), NoInitialisation():  # no memory for weights that the file may not have
            model = build_model(len(vocabulary), checkpoint.config["model"])
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: its config does not describe a model ({cli.one_line(error)})") from None
    load_weights(model, checkpoint.weights, path, assign=True)
    return model.to(device).eval(), vocabulary, checkpoint


def main(config):
    """Measure both encoders at 224 and 256 pixels, print each row once it is measured, and save the table."""
    import pandas as pd  # slow to import, and a model alone needs none of the three

    from captioning import complexity, plots

    config = cli.settings_of(config, "model")
    check_folder("graphs")
    build_model(len(SPECIALS), config)  # names a setting that no model can have
    devices = [torch.device("cpu")] + ([pick_device()] if pick_device().type == "cuda" else [])
    # The last row is the setting in which ResNet-18 was first published beside this model.
    variants = [("mobilenet_v2", config["embed_size"]), ("resnet18", config["embed_size"]), ("resnet18", 512)]
    print(complexity.header(devices), flush=True)
    rows = []
    for name, embed_size in dict.fromkeys(variants):
        title = f"{ENCODERS[name].title} ({embed_size})"
        rows.append({"model": title} | complexity.measure(EncoderCNN(name, embed_size), devices))
        print(complexity.row_text(rows[-1]), flush=True)
    table = pd.DataFrame([{k: v for k, v in row.items() if k != "latency_ms"} | row["latency_ms"] for row in rows])
    with replace_file("graphs/complexity.csv") as temporary:
        write_table(temporary, table, index=False, float_format="%.4f")
    plots.complexity_figure(rows, "graphs/complexity.png")
    print(f"at 224 px, {torch.get_num_threads()} CPU threads; wrote graphs/complexity.csv and graphs/complexity.png")
    print("next: python train.py")


if __name__ == "__main__":
    cli.run(main, {"model": LIMITS | TYPES}, model=CONFIG)
