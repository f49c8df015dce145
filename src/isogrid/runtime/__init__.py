"""Speed: sparse layers on the native kernels.  The only room, beside the file formats' codecs, that touches them."""
