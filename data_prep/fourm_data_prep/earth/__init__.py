"""The real Earth from public packages, as tiles of many modalities: what ``fourm earth`` runs.

``packages.py`` names what is fetched, ``fetching.py`` fetches it, ``maps.py`` says how it is read,
``captions.py`` describes tiles in words; ``stand_in.py`` invents a world where nothing can be
fetched.
"""
