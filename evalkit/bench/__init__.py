"""`evalkit bench`: throughput beside the device's roofline."""
