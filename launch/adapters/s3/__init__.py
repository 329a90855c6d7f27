"""Files in S3, and in what speaks its protocol: `launch.files.Files` over aioboto3.

The address, the region and the credentials are found the way AWS' own tools find them; `AWS_ENDPOINT_URL_S3` (or
`AWS_ENDPOINT_URL`) leads to another service of the same protocol.
"""

from launch.adapters.s3.client import S3Client
from launch.adapters.s3.files import S3Files

__all__ = ["S3Client", "S3Files"]
