"""A model family in one file outside the repository: Falcon 3, a Llama whose feed-forward may have biases (it has none).

    PYTHONPATH=docs/examples jaxpt import --from=HF_DIR --to=BUNDLE --family=falcon3:FAMILY
"""
