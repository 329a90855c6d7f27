"""EC2 as a provider of instances; the only importer of aioboto3 in the scaler."""
