"""What a model truly answers, for tests to compare with. Imports nothing of the program or of its templates.

One request at a time, greedy, in the checkpoint's dtype on the CPU, on pixels rounded as an engine gets them.
Hugging Face is the truth; where it has no class, the model's original repository is, composed here anew.
"""

from generator.oracle.common import Image, Oracle, open_image
from generator.oracle.llava import LlavaOracle
from generator.oracle.vila import IMAGE_TOKEN_INDEX, VilaOracle

__all__ = ["IMAGE_TOKEN_INDEX", "Image", "LlavaOracle", "Oracle", "VilaOracle", "open_image"]
