"""A network that tells objects apart is trained, and looks at views for their scores."""

import pytest
import torch
from tests.training.scenes import balls

from raydiance.data.views import ViewDataset
from raydiance.errors import ArtifactError, ConfigError, DataError
from raydiance.generation.extractors import TrainedViews, open_extractor
from raydiance.generation.viewsets import composite
from raydiance.metrics import image_set_scores
from raydiance.storage import Store
from raydiance.tracking import local_run
from raydiance.training import ExtractorLoop, ExtractorTraining, train_extractor

TRAINING = ExtractorTraining(loop=ExtractorLoop(steps=40, batch_size=12))


def test_objects_are_known_from_sides_never_trained_on(tmp_path):
    store = Store.open(tmp_path)
    views = balls(store)
    trained = train_extractor(TRAINING, local_run(store, inputs={"render": views}))
    assert trained.metrics["recognised_held_out"] == 1.0  # of three balls; by chance a third
    looked = open_extractor(TrainedViews(artifact=trained.artifact.ref.key), store)
    data = ViewDataset(views)
    red, green, blue = (composite(data.images(i)) for i in range(3))
    with torch.no_grad():
        scores = image_set_scores(looked, torch.cat([red, green]), torch.cat([red.flip(3), green]))
        others = image_set_scores(looked, torch.cat([red, green]), torch.cat([blue, blue.flip(3)]))
    assert 10 * scores["fd_views"] < others["fd_views"]
    with pytest.raises(DataError, match="give one of train_extractor"):
        open_extractor(TrainedViews(artifact=views.ref.key), store)
    with pytest.raises(ArtifactError, match="extractor/none"):
        open_extractor(TrainedViews(artifact="extractor/none"), store)


def test_one_object_cannot_be_told_apart(tmp_path):
    store = Store.open(tmp_path)
    with pytest.raises(ConfigError, match="takes 2"):
        train_extractor(TRAINING, local_run(store, inputs={"render": balls(store, kept_back=2)}))
