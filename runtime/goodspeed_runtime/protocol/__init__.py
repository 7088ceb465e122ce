"""What verifier and drafter say to each other, and how it is packed."""
