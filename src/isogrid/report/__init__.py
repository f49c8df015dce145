"""Tables, figures and the HTML page of a run.

``data`` holds what a report is made of, ``terminal`` prints it, ``html`` writes it as one self-contained page and
``figures`` draws the parts of that page.  matplotlib and jinja2 are optional: nothing is imported before it is needed.
"""
