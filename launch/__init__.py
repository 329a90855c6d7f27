"""The contract between everyone who publishes, runs or watches a job."""
