"""The GPU kit: everything one GPU is needed for, in three commands of at most nine minutes each.

``make gpu-check PART=1`` builds and tests, 2 measures K-Means and tiles, 3 measures the rest and runs the sanitizer.
:mod:`.steps` lists the steps, :mod:`.runner` runs them, :mod:`.summary` sums up what came back. All but
:mod:`.measure` needs Python alone, because the kit starts in a checkout where nothing is installed yet.
"""
