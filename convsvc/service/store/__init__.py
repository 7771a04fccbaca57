"""The job store: tables, transactions, and the two sides of them, the users' (`jobs`) and the executors' (`claims`)."""
