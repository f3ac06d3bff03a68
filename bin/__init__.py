"""The programs of robust_tf."""
