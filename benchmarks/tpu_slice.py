"""The training step compiled for a slice of TPUs, on a machine without any: does it fit, what do the chips exchange?

    python benchmarks/tpu_slice.py [--smoke] [--slice v5e:2x4] [--methods CAM,TS-CAM] [--batch 256] [--dtype bfloat16]
                                   [--rematerialize]

Needs libtpu (`pip install libtpu`), which holds the compiler. What is compiled is what `train.py` runs there: resident
faces, all steps of a call in one program. Nothing runs, so there is no time; compiling one takes minutes on two cores.
"""

import argparse
import os
import time

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")

import jax
import numpy as np
import timing
from jax.experimental import topologies
from scaling import listed, sent

from aujax import methods, runs
from aujax.config import Config, DataConfig
from aujax.data.batch import abstract, data_mesh, replicated
from aujax.training import memory
from aujax.training import step as steps
from aujax.training.optimizer import optimizer_of

STEPS = 64  # of an epoch


def compiled(config: Config, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
    """Returns the program of an epoch's steps on the mesh, faces for all of them included."""
    model = runs.build_model(config, 7)
    tx, _ = optimizer_of(config, steps_per_epoch=STEPS)
    batch = config.data.batch_size
    numbers = (np.zeros((STEPS, batch), np.int32), np.zeros((STEPS, batch), bool), np.int32(0))
    training = steps.Training(model, tx, config, mesh)
    variables = runs.abstract_variables(model, config)
    state = jax.eval_shape(lambda variables: steps.create_state(variables, tx), variables)
    carry = (state, steps.zero_means(training))
    *carry, rows, valid, first = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), (*carry, *numbers)
    )
    held = abstract(STEPS * batch, config.resize_size, mesh)
    program = steps.make_cached_steps(training, STEPS)
    return program.lower(*carry, held, rows, valid, first).compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a small network and images")
    parser.add_argument("--slice", default="v5e:2x4", help="chips, as JAX names them (default: v5e:2x4)")
    parser.add_argument("--methods", default="CAM", help="rows to compile (default: CAM)")
    parser.add_argument("--batch", type=int, default=256, help="faces of all chips (default: 256)")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of activations")
    parser.add_argument("--rematerialize", action="store_true", help="compute activations again in the backward pass")
    options = parser.parse_args()
    mesh = data_mesh(topologies.get_topology_desc(options.slice, "tpu").devices)
    print(f"{timing.machine()}; for {mesh.size} x {mesh.devices.flat[0].device_kind}, {options.dtype}\n")
    for name in options.methods.split(","):
        row = methods.method(name)
        config = Config(
            method=name,
            backbone=timing.SMALL[row.backbone] if options.smoke else "",
            image_size=64 if options.smoke else 0,
            dtype=options.dtype,
            rematerialize=options.rematerialize,
            data=DataConfig(batch_size=options.batch),
        )
        started = time.perf_counter()
        program = compiled(config, mesh)
        seconds = time.perf_counter() - started
        faces = STEPS * options.batch // mesh.size
        size = memory.needed(program)
        print(f"{name}: {memory.readable(size)} a chip for a batch of {options.batch}, {faces} resident faces among it")
        print(f"  sent by each in a step: {listed(sent(program, mesh.size))}; compiled in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
