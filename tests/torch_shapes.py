"""Names and shapes of PyTorch's models, from their descriptions: torchvision, timm, the released models."""

import numpy as np

BASIC, BOTTLENECK = ((3, True), (3, False)), ((1, False), (3, True), (1, False))
IN_ORDER = ((0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), (0, 1, 2))
# ADL's dropouts have numbers of their own.
AROUND_DROPOUTS = ((0, 1, 2), (0, 1, 2, 3), (0, 2, 3, 4, 5, 6), (0, 2, 3))


def batch_norm(name, width):
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (width,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def affine(name, *shape):
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def resnet(width, convs, expansion, blocks=((0,), (0,), (0,), (0,))):
    """A ResNet without its head: `convs` are (kernel, strides or not) of a block, `blocks` their numbers by stage."""
    shapes = {"conv1.weight": (width, 3, 7, 7)} | batch_norm("bn1", width)
    came = width
    for stage, numbers in enumerate(blocks, start=1):
        inner = width * 2 ** (stage - 1)
        last = inner * expansion
        for number in numbers:
            block = f"layer{stage}.{number}"
            for i, (kernel, _) in enumerate(convs, start=1):
                into, out = (came if i == 1 else inner), (last if i == len(convs) else inner)
                shapes[f"{block}.conv{i}.weight"] = (out, into, kernel, kernel)
                shapes |= batch_norm(f"{block}.bn{i}", out)
            if came != last:
                shapes[f"{block}.downsample.0.weight"] = (last, came, 1, 1)
                shapes |= batch_norm(f"{block}.downsample.1", last)
            came = last
    return shapes


def transformer_blocks(dim, depth, *, ratio=4, qkv_bias=True):
    """The blocks and the last normalisation."""
    shapes = {}
    for b in range(depth):
        shapes |= affine(f"blocks.{b}.attn.qkv", 3 * dim, dim) | affine(f"blocks.{b}.attn.proj", dim, dim)
        shapes |= affine(f"blocks.{b}.mlp.fc1", ratio * dim, dim) | affine(f"blocks.{b}.mlp.fc2", dim, ratio * dim)
        shapes |= affine(f"blocks.{b}.norm1", dim) | affine(f"blocks.{b}.norm2", dim)
        if not qkv_bias:
            del shapes[f"blocks.{b}.attn.qkv.bias"]
    return shapes | affine("norm", dim)


def vit(dim, depth, tokens, **options):
    """A vision transformer of timm without its head."""
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, tokens, dim)} | affine("patch_embed.proj", dim, 3, 16, 16)
    return shapes | transformer_blocks(dim, depth, **options)


def iresnet(width, units, *, flat):
    """face.evoLVe's network up to the last stage of `units`; `flat` counts units through all stages."""
    shapes = {"input_layer.0.weight": (width, 3, 3, 3), "input_layer.2.weight": (width,)}
    shapes |= batch_norm("input_layer.1", width)
    came, count = width, 0
    for stage, size in enumerate(units):
        out = width * 2**stage
        for number in range(size):
            unit = f"body.{count}" if flat else f"body.{stage}.{number}"
            shapes |= batch_norm(f"{unit}.res_layer.0", came) | batch_norm(f"{unit}.res_layer.4", out)
            shapes[f"{unit}.res_layer.1.weight"] = (out, came, 3, 3)
            shapes[f"{unit}.res_layer.2.weight"] = (out,)
            shapes[f"{unit}.res_layer.3.weight"] = (out, out, 3, 3)
            if came != out:
                shapes[f"{unit}.shortcut_layer.0.weight"] = (out, came, 1, 1)
                shapes |= batch_norm(f"{unit}.shortcut_layer.1", out)
            came, count = out, count + 1
    return shapes


def under(prefix, shapes):
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def _branch(name):
    sizes = ((1024, 2048, 3, 3), (1024, 1024, 3, 3), (7, 1024, 1, 1))
    return {k: v for i, size in enumerate(sizes) for k, v in affine(f"acol_pooler.{name}.{2 * i}", *size).items()}


def released(method):
    """A released model of the method: `model.pt`, flat."""
    if method == "TS-CAM":
        return vit(384, 12, 197) | affine("head", 7, 384, 3, 3)
    if method == "APViT":
        embeddings = {"cls_token": (1, 1, 768), "cls_pos_embed": (1, 1, 768), "patch_pos_embed": (1, 196, 768)}
        blocks = transformer_blocks(768, 8, ratio=3, qkv_bias=False)
        return {
            **under("extractor", iresnet(64, (3, 4, 14), flat=False)),
            **under("vit", embeddings | affine("projs.0", 768, 256, 1, 1) | blocks),
            **affine("classification_head.fc", 7, 768),
        }
    heads = {
        "WILDCAT": affine("to_modalities", 35, 2048, 1, 1),
        "PRM": affine("conv", 7, 2048, 1, 1),
        "ACoL": _branch("classifier_A") | _branch("classifier_B"),
    }
    family = method.removesuffix("/reference")
    encoder = resnet(64, BOTTLENECK, 4, AROUND_DROPOUTS if family == "ADL" else IN_ORDER)
    return under("encoder", encoder) | under("classification_head", heads.get(family, affine("fc", 7, 2048)))


def random_state(shapes):
    rng = np.random.default_rng(0)

    def tensor(name, shape):
        if name.endswith("num_batches_tracked"):
            return np.zeros((), np.int64)
        x = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return (1 + 0.1 * np.abs(x) if name.endswith("running_var") else x).astype(np.float32)

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def constant_state(shapes):
    """One number per tensor and no memory: only names, shapes and places are looked at."""
    counter = np.zeros((), np.int64)
    return {
        name: counter if name.endswith("num_batches_tracked") else np.broadcast_to(np.float32(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }
