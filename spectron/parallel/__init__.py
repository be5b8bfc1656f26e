"""The device mesh, the table of logical axes, and the other processes of a job."""
