import re
import runpy
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "hundred_parameters.py"


def test_it_zeroes_by_trigger_and_reaches_its_threshold(capsys):
    found = runpy.run_path(str(EXAMPLE))
    said = capsys.readouterr().out
    assert sum(p.numel() for p in found["model"].parameters()) == 100
    assert found["result"].metric >= 0.90
    assert "reached" in said
    assert "not reached" not in said
    zeroed = re.findall(r"step +(\d+): zeroed (\S+)\[(\d+), (\d+)\]", said)
    assert len(zeroed) == len({place[1:] for place in zeroed}) > 40
    weights = dict(found["model"].named_parameters())
    assert all(weights[name][int(row), int(column)] == 0 for _, name, row, column in zeroed)
    left = sum(int(p.count_nonzero()) for p in weights.values())
    assert f"{left} of 100 parameters are left" in said
