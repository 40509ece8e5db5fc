"""Jobs on the projection: attributes promoted and demoted, the projection rebuilt and verified."""
