"""Suites that every member of the vocabulary inherits: the library's own, and any that you write.

A suite is a class.  Inherit it, name the member, and pytest runs everything that the rest of Isogrid relies on::

    from conformance.patterns import PatternConformance

    class TestMyPattern(PatternConformance):
        pattern = MyPattern(size=3)

A member that no parser knows by name sets ``parse = None``.
"""
