"""Wrong labels in dense and in sparse training."""
