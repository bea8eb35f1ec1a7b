"""Any modalities from any others, with their codecs: what is given, what comes out.

``pipeline`` has AnyToAnyPipeline; ``given`` and ``inputs`` are what users hand to it,
``generated`` and ``output_types`` what they get back.
"""
