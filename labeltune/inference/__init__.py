"""The classifier folder, and predicting with it.

Modules: `artifact` (saving and loading), `calibration` (applying it), `classifier` (predicting), `model_card`.

```python
from labeltune import Classifier

answers = Classifier("models/classifier").predict(["Win a free prize now"])
```
"""
