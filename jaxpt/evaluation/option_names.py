"""What a user calls the options of an evaluation: flags of one command or another, or keys of a config."""

from dataclasses import dataclass

from jaxpt.errors import JaxptError

AT_LEAST = {"limit": 1, "max_length": 1, "batch_tokens": 1, "slots": 1, "num_fewshot": 0, "backlog": 0}


@dataclass(frozen=True)
class OptionNames:
    """How messages name options; by default as the flags of `jaxpt eval`.

    `prefix` stands before each name; `data` is what the folder of evaluation sets is called; `absent` are those of the
    flags of `jaxpt eval` that are not there.
    """

    prefix: str = "--"
    data: str = "data"
    absent: tuple[str, ...] = ()

    def __getitem__(self, option: str) -> str:
        """Returns an option as the user writes it."""
        return f"{self.prefix}{self.data if option == 'data' else option}"

    def has(self, option: str) -> bool:
        """Whether the user can set an option here."""
        return option not in self.absent

    def check_counts(self, options: object) -> None:
        """Raises a JaxptError for one of the numbers among the attributes of `options` that is too small."""
        for name, least in AT_LEAST.items():
            value = getattr(options, name, None)
            if value is not None and value < least:
                raise JaxptError(f"{self[name]}={value} must be at least {least}")


FLAGS = OptionNames()
FOLLOWER_FLAGS = OptionNames(absent=("run_model_code",))
SFT_PROBE_FLAGS = OptionNames(data="eval_data", absent=("run_model_code",))


def key_names(where: str) -> OptionNames:
    """Returns how the keys of the entry `where` of a config's `evaluations` are named."""
    return OptionNames(f"{where}.", absent=("run_model_code", "hub"))
