"""Tests of the replication primary."""
