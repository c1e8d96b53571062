"""The water problem: simulated molecular dynamics of flexible molecules, samples of it, and predictors to beat.

Lengths are in Å, times in fs, masses in amu (so velocities in Å/fs, forces in amu Å/fs²); reported energies are in
kJ/mol, errors in pm. Atoms are in the order O, H, H, molecule by molecule. Importing this loads nothing.
"""
