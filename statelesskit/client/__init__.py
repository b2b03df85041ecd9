"""What runs on clients. Each file here is installed by itself and needs nothing but Python 3.10."""
