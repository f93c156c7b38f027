"""The traffic of a module written by hand, and of one compiled for eight devices."""

import pytest

from benchmarks.collectives import Traffic, collectives
from tests.forked import run_program

MODULE = """\
HloModule jit_step, is_scheduled=true, num_partitions=8

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%body (carry: (s32[], f32[64])) -> (s32[], f32[64]) {
  %carry = (s32[], f32[64]{0}) parameter(0)
  %value = f32[64]{0} get-tuple-element(%carry), index=1
  %total = f32[64]{0} all-reduce(%value), replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %next = (s32[], f32[64]{0}) tuple(%value, %total)
}

%condition (carry: (s32[], f32[64])) -> pred[] {
  ROOT %go = pred[] constant(true)
}

%wrapped (operand: bf16[32]) -> bf16[8] {
  %operand = bf16[32]{0} parameter(0)
  ROOT %part = bf16[8]{0} reduce-scatter(%operand), replica_groups={{0,1,2,3},{4,5,6,7}}, \
dimensions={0}, to_apply=%add
}

ENTRY %main (p: f32[16,10], q: bf16[32], r: f32[64]) -> f32[64] {
  %p = f32[16,10]{1,0} parameter(0)
  %q = bf16[32]{0} parameter(1)
  %r = f32[64]{0} parameter(2)
  %start = (f32[16,10]{1,0}, f32[128,10]{1,0}) all-gather-start(%p), replica_groups={}, \
dimensions={0}, use_global_device_ids=true
  %done = f32[128,10]{1,0} all-gather-done(%start)
  %async = ((bf16[32]{0}), bf16[8]{0}, u32[]) async-start(%q), calls=%wrapped
  %async_done = bf16[8]{0} async-done(%async), calls=%wrapped
  %both = (f32[6]{0}, s32[2]{0}) all-reduce(%a, %b), replica_groups={{0,1},{2,3},{4,5},{6,7}}, \
to_apply=%add
  %begun = (f32[5]{0}, f32[5]{0}, u32[], u32[]) collective-permute-start(%c), \
source_target_pairs={{0,1},{1,0}}
  %ended = f32[5]{0} collective-permute-done(%begun)
  %some = f32[8]{0} all-reduce(%d), replica_groups=mesh['a'=4,'b'=2], \
device_ids=([2,4]T(1,0)) {'b'}, use_global_device_ids=true, to_apply=%add
  %half = f32[3]{0} all-gather(%e), replica_groups=mesh['a'=8] {'a':(2)4}, dimensions={0}
  %turned = f32[64]{0} all-to-all(%r), replica_groups=[1,8]<=[8], dimensions={0}
  %loop = (s32[], f32[64]{0}) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
  ROOT %out = f32[64]{0} get-tuple-element(%loop), index=1
}
"""


def test_a_module_written_by_hand():
    assert collectives(MODULE) == {
        ("all-gather", 8): Traffic(1, 4 * 1280 * 7 / 8),
        ("reduce-scatter", 4): Traffic(1, 2 * 32 * 3 / 4),
        ("all-reduce", 2): Traffic(2, 2 * (4 * 6 + 4 * 2 + 4 * 8) / 2),
        ("all-gather", 4): Traffic(1, 4 * 3 * 3 / 4),
        ("collective-permute", 8): Traffic(1, 4 * 5),
        ("all-to-all", 8): Traffic(1, 4 * 64 * 7 / 8),
        ("all-reduce", 4): Traffic(7, 7 * 2 * 4 * 64 * 3 / 4),
    }


MODULE_FOR_TPUS = """\
HloModule jit_step, num_partitions=8

%begins (a: bf16[8]) -> (bf16[8], bf16[32]) {
  %a = bf16[8]{0:T(256)} parameter(0)
  %whole = bf16[32]{0:T(256)S(1)} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %s = (bf16[8], bf16[32]) custom-call(%a, %whole), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (a: bf16[8], b: f32[2]) -> (f32[2], bf16[32]) {
  %again = bf16[32]{0:T(256)} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}
}

%ends (a: bf16[8]) -> bf16[32] {
  %last = bf16[32]{0:T(256)} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}
  ROOT %done = bf16[32]{0} custom-call(%last), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.3 (g: bf16[64], h: bf16[16]) -> (bf16[16], bf16[4]) {
  %sums = (bf16[64]{0:T(256)}, bf16[16]{0:T(256)}) all-reduce(%g, %h), channel_id=1, \
replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %part = bf16[16]{0} dynamic-slice(%first, %place), dynamic_slice_sizes={16}
}

ENTRY %main (a: bf16[8]) -> bf16[32] {
  %start = (bf16[8], bf16[32]) fusion(%a), kind=kCustom, calls=%begins
  %middle = (f32[2], bf16[32]) fusion(%start), kind=kOutput, calls=%async_collective_fusion.1
  %parts = (bf16[16], bf16[4]) fusion(%g, %h), kind=kCustom, calls=%all-reduce-scatter.3
  ROOT %end = bf16[32] fusion(%middle), kind=kCustom, calls=%ends
}
"""


def test_the_ways_of_a_module_for_tpus():
    assert collectives(MODULE_FOR_TPUS) == {
        ("all-gather", 4): Traffic(1, 2 * 32 * 3 / 4),
        ("reduce-scatter", 4): Traffic(1, 2 * (64 + 16) * 3 / 4),
    }


PROGRAM = """
import jax, jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P
from tests.forked import run_program
from vitdeblur_jax.distributed.sharding import make_mesh

def send(x):  # a device holds 6 x 32
    whole = lax.all_gather(x, "fsdp", tiled=True)
    total = lax.psum(whole.sum(axis=0), ("data", "fsdp"))
    part = lax.psum_scatter(x.T @ x, "fsdp", scatter_dimension=0, tiled=True)
    beside = lax.ppermute(x, "fsdp", [(0, 1), (1, 2), (2, 3), (3, 0)])
    turn = lambda carry, _: (lax.pmax(carry * 1.5, "data"), None)
    turned, _ = lax.scan(turn, beside, length=5)
    return total.sum() + part.sum() + turned

places = P(("data", "fsdp"))
sent = jax.shard_map(send, mesh=make_mesh(2, 4), in_specs=places, out_specs=places, check_vma=False)
print(jax.jit(sent).lower(jnp.zeros((48, 32))).compile().as_text())
"""


def test_an_unknown_way_to_list_groups_is_no_guess():
    module = "ENTRY %main () -> f32[4] {\n  %x = f32[4] all-gather(%y), replica_groups=<new>"
    with pytest.raises(ValueError, match="<new>"):
        collectives(module)


def test_a_module_compiled_for_eight_devices(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = run_program(["-c", PROGRAM], tmp_path, **flags)
    assert done.returncode == 0, done.stderr
    assert collectives(done.stdout) == {
        ("all-gather", 4): Traffic(1, 4 * (4 * 6 * 32) * 3 / 4),
        ("all-reduce", 8): Traffic(1, 2 * 4 * 32 * 7 / 8),
        ("reduce-scatter", 4): Traffic(1, 4 * (32 * 32) * 3 / 4),
        ("collective-permute", 8): Traffic(1, 4 * 6 * 32),
        ("all-reduce", 2): Traffic(5, 5 * 2 * 4 * (6 * 32) / 2),
    }
