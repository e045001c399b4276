"""Where the project lies: the folder that holds configs/ and jobs/."""

from pathlib import Path

from raydiance.errors import ConfigError

__all__ = ["OUTPUTS", "project_folder"]

OUTPUTS = Path("outputs/pipeline")  # what the stages leave, in a folder for each experiment


def project_folder() -> Path:
    """The working folder if it holds configs/config.yaml, else the checkout that this code lies in."""
    for folder in (Path.cwd(), Path(__file__).parents[3]):
        if (folder / "configs" / "config.yaml").is_file():
            return folder
    raise ConfigError(f"{Path.cwd()} holds no configs/config.yaml; change to the folder of the project")
