"""torchao quantizes nothing: an optimization that was asked for is not there."""

import torchao.quantization

torchao.quantization.quantize_ = lambda *args, **kwargs: None
