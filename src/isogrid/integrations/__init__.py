"""Where people train: callbacks for the Hugging Face Trainer and Lightning, and what Accelerate and PEFT need.

Each module needs the library that it is named after and no other; nothing in the package imports them.
"""
