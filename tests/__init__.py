"""The test suite; this file keeps its folders from shadowing the packages they mirror."""
