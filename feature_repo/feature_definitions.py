"""The project's entities, feature views and feature services, as the `feast` command finds them.

`feast` imports this file and registers the Feast objects that it holds. They are defined in
`leanrec/features/definitions.py`, the one home that Python callers use too. Where their tables
lie is the command's own setting, the variable that feature_store.yaml takes its paths from.
"""

import os
from pathlib import Path

from leanrec.errors import ConfigError
from leanrec.features.definitions import define_features

REPOSITORY_VARIABLE = "LEANREC_FEATURE_STORE"

if not os.environ.get(REPOSITORY_VARIABLE):
    raise ConfigError(
        f"{REPOSITORY_VARIABLE} is not set; set it to the absolute path of feature_store.repository"
    )

definitions = define_features(Path(os.environ[REPOSITORY_VARIABLE]) / "offline")

user = definitions.user
item = definitions.item

user_profile = definitions.user_profile
user_activity = definitions.user_activity
user_seen = definitions.user_seen
item_statistics = definitions.item_statistics

ranking_training = definitions.ranking_training
user_row = definitions.user_row
