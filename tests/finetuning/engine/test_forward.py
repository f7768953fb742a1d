"""What a network computes in full is computed in full."""

import torch

from resnet_hub.finetuning.engine.forward import full_float32


def test_full_float32_is_full_and_ends_as_it_began():
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    with full_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
