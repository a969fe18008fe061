"""The object store provider `s3`: Amazon S3 and what speaks its protocol."""
