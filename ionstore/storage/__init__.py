"""Files, paths, S3 objects and disk space; nothing here knows cubes."""
