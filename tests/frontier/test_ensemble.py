import torch
from torch import nn

from isogrid.frontier.ensemble import Ensemble


def test_members_answer_with_their_mean_and_learn_nothing():
    members = [nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)) for _ in range(3)]
    ensemble = Ensemble(members)
    x = torch.randn(4, 3)
    answer = ensemble.answer(lambda model: model(x))
    assert torch.allclose(answer, torch.stack([member[0](x) for member in members]).mean(dim=0))
    assert not answer.requires_grad
    assert not any(p.requires_grad for member in members for p in member.parameters())
    assert not any(member.training for member in members)


def test_one_member_is_itself():
    member = nn.Linear(3, 2)
    assert torch.equal(Ensemble([member]).answer(lambda model: model(torch.ones(1, 3))), member(torch.ones(1, 3)))
