"""Speed and size against the peers; run by script/bench, never by the tests."""
