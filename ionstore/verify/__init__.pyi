from .damage import Damage as Damage
from .verify import Verification as Verification
from .verify import verify_store as verify_store
