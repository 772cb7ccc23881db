"""The manifests: a row for every clip, the settings of a folder, and training lists made from them."""
