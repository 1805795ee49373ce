"""The shell: everything that touches Kafka, Redis, the clock, files, the network and the terminal."""
