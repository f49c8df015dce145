import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from isogrid.errors import FormatError, TargetError, TrainingError, UnsupportedError, UsageError
from isogrid.formats.model import load, model_bytes, save
from isogrid.inspection import inspect
from isogrid.precision import quantize


class Shared(nn.Module):
    """An encoder and a decoder that share a weight, a batch norm, an index buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 12)
        self.norm = nn.BatchNorm1d(12)
        self.decoder = nn.Linear(12, 12)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("index", torch.arange(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.norm(self.encoder(x)))


def sparse(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) > 0.9)
    return model


@pytest.mark.parametrize("values", ["fp32", "fp16", "int8"])
def test_save_and_load_give_what_quantize_gives(tmp_path, values):
    model = sparse(Shared())
    path = tmp_path / "m.safetensors"
    size = save(model, path, values=values)
    assert size == model_bytes(model, values) == path.stat().st_size
    found = load(path, into=Shared())
    quantize(model, values)
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    assert found.encoder.weight is found.decoder.weight


def test_a_lenet_is_small(tmp_path):
    model = sparse(nn.Sequential(nn.Linear(784, 300), nn.Linear(300, 100), nn.Linear(100, 10)))
    nonzeros = sum(int(p.count_nonzero()) for p in model.parameters())
    for values, most in (("fp32", 5.4), ("fp16", 3.4), ("int8", 2.4)):
        assert save(model, tmp_path / "m.safetensors", values=values) / nonzeros <= most


def test_a_quantised_model_is_recognised():
    model = sparse(nn.Sequential(nn.Linear(200, 100)))
    small = model_bytes(model, "int8")
    quantize(model, "int8")
    assert model_bytes(model, "fp32") == small


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_a_compiled_model_has_the_names_of_the_plain_one(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3))
    save(torch.compile(model), tmp_path / "m.safetensors")
    found = load(tmp_path / "m.safetensors", into=nn.Sequential(nn.Linear(4, 3)))
    assert torch.equal(found[0].weight, model[0].weight)


@pytest.mark.parametrize(
    ("into", "said"),
    [
        (nn.Linear(4, 4), "shape"),
        (nn.Linear(4, 3, bias=False), "has bias"),
        (nn.Sequential(nn.Linear(4, 3)), "lacks"),
    ],
)
def test_a_model_that_does_not_fit_is_left_as_it_is(tmp_path, into, said):
    save(nn.Linear(4, 3), tmp_path / "m.safetensors")
    before = {name: value.clone() for name, value in into.state_dict().items()}
    with pytest.raises(FormatError, match=said):
        load(tmp_path / "m.safetensors", into=into)
    assert all(torch.equal(before[name], value) for name, value in into.state_dict().items())


def test_bad_arguments(tmp_path):
    with pytest.raises(UsageError, match="int4"):
        save(nn.Linear(2, 2), tmp_path / "m", values="int4")
    with pytest.raises(TargetError, match="nothing"):
        save(nn.Linear(2, 2), tmp_path / "m", targets=["nothing"])
    with pytest.raises(UsageError, match="isogrid"):
        save(nn.Linear(2, 2), tmp_path / "m", metadata={"isogrid.x": "1"})
    for key, value in (("epochs", 3), (3, "epochs"), ("epochs", None)):
        with pytest.raises(UsageError, match=r"The metadata got .*; accepted are keys and values of text"):
            save(nn.Linear(2, 2), tmp_path / "m", metadata={key: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [None, {"weight": torch.zeros(2, 2)}, "model"])
def test_what_is_no_module_is_refused(tmp_path, wrong):
    save(nn.Linear(2, 2), tmp_path / "m.safetensors")
    said = rf"^The model is a {type(wrong).__name__}; accepted is a torch\.nn\.Module\.$"
    with pytest.raises(UsageError, match=said):
        save(wrong, tmp_path / "n.safetensors")
    with pytest.raises(UsageError, match=said):
        model_bytes(wrong)
    with pytest.raises(UsageError, match=said):
        load(tmp_path / "m.safetensors", into=wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def parameter(tensor: torch.Tensor) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(tensor, requires_grad=False)
    return module


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.floats(0, 1),
    st.integers(0, 2**32),
)
@settings(max_examples=30)
def test_the_bytes_that_are_promised_are_written_and_come_back(tmp_path_factory, sizes, values, sparsity, seed):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=a % 2 == 0) for a, b in pairwise(sizes)]
    model = nn.Sequential(*layers, nn.Conv1d(2, 3, 2), nn.ConvTranspose1d(2, 3, 2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(torch.rand_like(weight) >= sparsity)
    before = copy.deepcopy(model.state_dict())
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    size = save(model, path, values=values)
    assert size == path.stat().st_size == model_bytes(model, values)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    found = load(path, into=copy.deepcopy(model))
    quantize(model, values)
    assert all(torch.equal(found.state_dict()[name], value) for name, value in model.state_dict().items())
    assert inspect(path).nonzeros == sum(int(p.count_nonzero()) for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_stored_in_what_holds_them_and_cast_back(tmp_path, dtype):
    model = nn.Linear(6, 5).to(dtype)
    if dtype == torch.float64:
        model = model.float().double()  # what float32 holds
    save(model, tmp_path / "m.safetensors")
    found = load(tmp_path / "m.safetensors", into=nn.Linear(6, 5).to(dtype))
    assert found.weight.dtype == dtype
    assert torch.equal(found.weight, model.weight)
    assert torch.equal(found.bias, model.bias)


def test_buffers_come_back_in_their_own_dtype(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    model.register_buffer("precise", torch.tensor([0.1], dtype=torch.float64))
    model.register_buffer("mask", torch.tensor([True, False]))
    model(torch.randn(8, 4))
    save(model, tmp_path / "m.safetensors", values="int8")
    fresh = copy.deepcopy(model)
    for buffer in fresh.buffers():
        buffer.zero_()
    load(tmp_path / "m.safetensors", into=fresh)
    for (name, wanted), found in zip(model.named_buffers(), fresh.buffers(), strict=True):
        assert found.dtype == wanted.dtype, name
        assert torch.equal(found, wanted), name


def test_a_file_of_others_needs_one_name_of_a_shared_weight_and_not_two_different_ones(tmp_path):
    path = tmp_path / "m.safetensors"
    state = {name: tensor.clone() for name, tensor in Shared().state_dict().items()}
    save_file({name: tensor for name, tensor in state.items() if name != "decoder.weight"}, path)
    found = load(path, into=Shared())
    assert torch.equal(found.decoder.weight, state["encoder.weight"])
    state["decoder.weight"] = state["decoder.weight"] + 1
    save_file(state, path)
    with pytest.raises(FormatError, match=r"different encoder\.weight and decoder\.weight"):
        load(path, into=Shared())


def test_dtypes_are_cast_but_integers_are_no_floats(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"weight": torch.ones(2, 3, dtype=torch.bfloat16), "bias": torch.ones(2, dtype=torch.float64)}, path)
    assert load(path, into=nn.Linear(3, 2)).weight.dtype == torch.float32
    save_file({"weight": torch.ones(2, 3, dtype=torch.int64), "bias": torch.ones(2)}, path)
    with pytest.raises(FormatError, match="weight is integer there and floating point here"):
        load(path, into=nn.Linear(3, 2))


def test_many_missing_names_are_summed_up(tmp_path):
    save(nn.Linear(2, 2), tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match="and 3 more"):
        load(tmp_path / "m.safetensors", into=nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)]))


def test_averaged_models_are_seen_through(tmp_path):
    model = nn.Linear(3, 2)
    save(torch.optim.swa_utils.AveragedModel(model), tmp_path / "m.safetensors")
    assert torch.equal(load(tmp_path / "m.safetensors", into=nn.Linear(3, 2)).weight, model.weight)
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2))
    assert load(tmp_path / "m.safetensors", into=averaged) is averaged
    assert torch.equal(averaged.module.weight, model.weight)


@pytest.mark.parametrize(
    ("model", "error", "said"),
    [
        (parameter(torch.zeros(2, 2).to(torch.float8_e4m3fn)), UnsupportedError, "weight"),
        (nn.Linear(2, 2, device="meta"), UnsupportedError, "meta"),
        (parameter(torch.eye(3).to_sparse()), UnsupportedError, "weight"),
        (parameter(torch.zeros(2, 2, dtype=torch.complex64)), UsageError, "complex64"),
        (parameter(torch.full((2, 2), 1e300, dtype=torch.float64)), UnsupportedError, "weight holds 1e"),
        (nn.LazyLinear(2), UnsupportedError, "lazy"),
    ],
)
def test_what_cannot_be_saved_is_named_and_the_old_file_stays(tmp_path, model, error, said):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(error, match=said) as caught:
        save(model, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_state_that_is_no_tensor_is_refused(tmp_path):
    class Extra(nn.Linear):
        def get_extra_state(self) -> object:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None:
            """Nothing to restore."""

    with pytest.raises(UnsupportedError, match="extra_state is a dict"):
        save(Extra(2, 2), tmp_path / "m.safetensors")
    save(nn.Linear(2, 2), tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match="lacks _extra_state"):
        load(tmp_path / "m.safetensors", into=Extra(2, 2))


def test_not_a_number_is_kept_in_fp32_and_refused_below(tmp_path):
    model = parameter(torch.tensor([[float("nan"), 0.0, float("inf")]]))
    save(model, tmp_path / "m.safetensors")
    found = load(tmp_path / "m.safetensors", into=parameter(torch.zeros(1, 3)))
    assert torch.equal(found.weight.isnan(), model.weight.isnan())
    assert found.weight[0, 2] == float("inf")


def test_weights_that_are_not_finite_are_not_rounded(tmp_path):
    model = nn.Linear(2, 2)
    model.weight.data[0, 0] = float("inf")
    for values in ("fp16", "int8"):
        with pytest.raises(TrainingError, match="weight holds 1 number"):
            save(model, tmp_path / "m.safetensors", values=values)
    assert not list(tmp_path.iterdir())


def test_only_the_targets_are_rounded(tmp_path):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    save(model, tmp_path / "m.safetensors", values="int8", ignore=["1"])
    found = load(tmp_path / "m.safetensors", into=nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)))
    assert torch.equal(found[1].weight, model[1].weight)
    assert not torch.equal(found[0].weight, model[0].weight)
