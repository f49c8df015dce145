import json

import pytest
import safetensors.torch
import torch
from torch import nn

from isogrid.errors import FormatError, RunError, UsageError
from isogrid.formats.model import save
from isogrid.formats.onnx import export
from isogrid.inspection import inspect
from isogrid.masks import count_zeros


def sparse() -> nn.Module:
    model = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.BatchNorm1d(20), nn.Linear(20, 5)).eval()
    with torch.no_grad():
        for layer in (model[0], model[3]):
            layer.weight.mul_(torch.rand_like(layer.weight) > 0.8)
    return model


def test_the_file_holds_what_the_model_holds(tmp_path):
    model = sparse()
    counts = count_zeros(model)
    save(model, tmp_path / "m.safetensors")
    export(model, tmp_path / "m.onnx", torch.zeros(1, 30))
    found = inspect(tmp_path / "m.safetensors")
    for name in ("sparsity", "sparsity_of_model", "nonzeros", "parameters"):
        assert getattr(found, name) == counts[name], name
    assert inspect(tmp_path / "m.onnx").sparsity == counts["sparsity"]


def test_targets_of_a_run_are_remembered(tmp_path):
    model = sparse()
    save(model, tmp_path / "m.safetensors", targets=["3.weight"])
    found = inspect(tmp_path / "m.safetensors")
    assert [layer.name for layer in found.layers if layer.target] == ["3.weight"]
    assert found.sparsity == pytest.approx(float((model[3].weight == 0).float().mean()), abs=1e-6)


def test_json_has_the_fields_in_all_and_by_layer(tmp_path):
    save(sparse(), tmp_path / "m.safetensors")
    plain = json.loads(json.dumps(inspect(tmp_path / "m.safetensors").to_json()))
    fields = {"sparsity", "nonzeros", "parameters", "bytes"}
    assert fields | {"sparsity_of_model"} <= set(plain)
    assert all(fields <= set(layer) for layer in plain["layers"])
    assert plain["nonzeros"] == sum(layer["nonzeros"] for layer in plain["layers"])


def test_a_file_of_others_is_counted_too(tmp_path):
    safetensors.torch.save_file({"w": torch.eye(10), "ids": torch.arange(4)}, tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors")
    assert (found.sparsity, found.nonzeros, found.parameters) == (0.9, 10, 100)


def test_what_cannot_be_inspected_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        inspect(tmp_path / "absent.bin")
    (tmp_path / "m.pt").write_bytes(b"")
    with pytest.raises(UsageError, match="kind"):
        inspect(tmp_path / "m.pt")
    with pytest.raises(RunError, match="no finished run"):
        inspect(tmp_path)
    for name in ("m.safetensors", "m.onnx"):
        (tmp_path / name).write_bytes(b"\x00\x01garbage")
        with pytest.raises(FormatError, match=name):
            inspect(tmp_path / name)
    save(sparse(), tmp_path / "model.safetensors")
    (tmp_path / "result.json").write_text("[1")
    with pytest.raises(RunError, match="damaged"):
        inspect(tmp_path)


def test_the_layers_add_up_to_the_whole(tmp_path):
    save(sparse(), tmp_path / "m.safetensors", values="int8")
    plain = inspect(tmp_path / "m.safetensors").to_json()
    for field in ("nonzeros", "parameters"):
        assert plain[field] == sum(layer[field] for layer in plain["layers"])
    assert plain["sparsity_of_model"] == pytest.approx(sum(layer["sparsity_of_model"] for layer in plain["layers"]))
    targets = [layer for layer in plain["layers"] if layer["target"]]
    zeros = sum(layer["parameters"] - layer["nonzeros"] for layer in targets)
    assert plain["sparsity"] == pytest.approx(zeros / sum(layer["parameters"] for layer in targets))
    assert (
        sum(layer["bytes"] for layer in plain["layers"]) < plain["bytes"] == (tmp_path / "m.safetensors").stat().st_size
    )
    for layer in plain["layers"]:
        assert layer["sparsity"] == pytest.approx(1 - layer["nonzeros"] / layer["parameters"])
        assert layer["values"] == ("int8" if layer["target"] else "fp32")


def test_a_run_is_counted_by_its_model_and_brings_its_result(tmp_path):
    save(sparse(), tmp_path / "model.safetensors")
    (tmp_path / "result.json").write_text('{"verdict": {"state": "held"}}')
    found = inspect(tmp_path)
    assert found.path == tmp_path / "model.safetensors"
    assert found.to_json()["result"] == {"verdict": {"state": "held"}}
    assert found.nonzeros == inspect(tmp_path / "model.safetensors").nonzeros
    assert "result" not in inspect(tmp_path / "model.safetensors").to_json()


def test_embeddings_buffers_and_depthwise_kernels_are_told_from_targets(tmp_path):
    model = nn.ModuleDict({"words": nn.Embedding(9, 4), "depth": nn.Conv2d(4, 4, 3, groups=4), "fc": nn.Linear(4, 4)})
    model.register_buffer("table", torch.zeros(5, 5))
    save(model, tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors")
    assert [layer.name for layer in found.layers if layer.target] == ["fc.weight"]
    assert found.parameters == count_zeros(model)["parameters"]
    assert "table" not in {layer.name for layer in found.layers}


def test_a_shared_weight_counts_once(tmp_path):
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    save(model, tmp_path / "m.safetensors")
    assert inspect(tmp_path / "m.safetensors").parameters == 36


def test_a_file_without_parameters(tmp_path):
    save(nn.ReLU(), tmp_path / "m.safetensors")
    found = inspect(tmp_path / "m.safetensors")
    assert (found.sparsity, found.sparsity_of_model, found.nonzeros, found.parameters) == (0.0, 0.0, 0, 0)
    assert found.to_json()["layers"] == []


@pytest.mark.parametrize("text", ["3", "{", '["a", 1]', "[" * 50_000])
def test_damaged_lists_of_roles_are_refused(tmp_path, text):
    safetensors.torch.save_file({"w": torch.eye(3)}, tmp_path / "m.safetensors", {"isogrid.spared": text})
    with pytest.raises(FormatError, match=r"isogrid\.spared"):
        inspect(tmp_path / "m.safetensors")
