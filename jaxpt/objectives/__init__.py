"""What is minimised: a registry of objectives, each a loss over a global batch."""

from jaxpt.objectives.next_token import next_token

OBJECTIVES = {"next_token": next_token}
