"""Reading and writing checkpoints: GGUF files and Hugging Face folders. Data only: nothing is unpickled or executed."""
