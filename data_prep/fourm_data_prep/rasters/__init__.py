"""Large co-registered images -> tiles: raw shards cut out of maps, pictures of slides, scans.

A YAML file names the images and how they are cut (``settings.py``), ``fourm import maps.yaml``
writes shards. Images are decoded once (``decoding.py``) and read through memory maps
(``layers.py``); where tiles lie (``tiling.py``) is a pure function of the YAML and its seed.
"""
