"""Homework made from the code: functions of the paper to write, and our tests to grade them (docs/course.md)."""
