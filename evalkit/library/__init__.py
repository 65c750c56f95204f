"""What a program calls; `evalkit/__init__.py` exports it. Functions here raise EvalkitError, print nothing and never end the process."""
