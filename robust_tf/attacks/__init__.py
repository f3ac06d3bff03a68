from robust_tf.attacks.pgd import PGD
from robust_tf.attacks.pgd import margins_of
