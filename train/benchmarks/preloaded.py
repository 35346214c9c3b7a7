"""What a training loads, imported for its side effect by the process that others fork from."""

import transformers.models.resnet.modeling_resnet  # noqa: F401
from torch.utils.tensorboard import SummaryWriter  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import geoclip_core.training.distributed
import geoclip_core.training.fit
import geoclip_core.training.pretrain  # noqa: F401
from geoclip_core.earth.gazetteer import Gazetteer

Gazetteer.load()
get_checkpoint_conversion_mapping("resnet")  # compiles a thousand patterns once
