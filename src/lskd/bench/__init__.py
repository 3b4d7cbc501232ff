"""How fast this machine trains: beside the loop that is usual in public code, and beside the machine's own floor."""
