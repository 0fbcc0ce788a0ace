"""Scores of a made model as one of two processes, each with its half of every batch: COORDINATOR RANK FILE."""

import sys

import jax


def spread(batch, sharding):
    """This process's rows of a batch, as the global arrays that both processes make up."""
    share = len(batch["tokens"]) // jax.process_count()
    own = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    return {k: jax.make_array_from_process_local_data(sharding, v[own]) for k, v in batch.items()}


def main(coordinator, rank, path):
    """Scores and writes them to `path`."""
    jax.distributed.initialize(coordinator, 2, int(rank))  # before anything that computes is imported

    from jaxpt.reshape.calibrate import activation_scores
    from jaxpt.reshape.stream import InMemory
    from jaxpt.sharding import batch_sharding, make_mesh
    from tests.models.tiny import VARIANTS
    from tests.reshape.proofs import batches, random_params

    c = VARIANTS["llama"]
    where = batch_sharding(make_mesh({"data": jax.device_count()}))
    given = [spread(b, where) for b in batches(c, rows=8)]
    activation_scores(InMemory(c, random_params(c)), given, data="made", removal=True).save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
